import { readFileSync } from "node:fs";
import { TokenizerError } from "./errors.ts";

/** The JSON object in a file. Errors: one line with the file's name. */
export function readJsonFile(file: string): Record<string, unknown> {
  const text = readFileSync(file, "utf8");
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch (error) {
    throw new TokenizerError(`${file} is not valid JSON; it may be cut off or damaged`, error);
  }
  throw new TokenizerError(`${file} should hold a JSON object`);
}
