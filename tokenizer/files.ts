import { readFileSync } from "node:fs";
import { isObject } from "../core/platform/files.ts";
import { TokenizerError } from "./errors.ts";

/** The text of a UTF-8 file. Throws for invalid UTF-8, which would silently change tokens. */
export function readTextFile(file: string): string {
  const bytes = readFileSync(file);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new TokenizerError(`${file} is not UTF-8 text; it may be damaged`, error);
  }
}

/** The JSON object in a file. Throws a one-line error that names the file. */
export function readJsonFile(file: string): Record<string, unknown> {
  const text = readTextFile(file);
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch (error) {
    throw new TokenizerError(`${file} is not valid JSON; it may be cut off or damaged`, error);
  }
  throw new TokenizerError(`${file} should hold a JSON object`);
}
