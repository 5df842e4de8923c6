import { readFileSync } from "node:fs";
import { isObject } from "../core/platform/files.ts";
import { TokenizerError } from "./errors.ts";

/** The text of a UTF-8 file. Errors: bytes that are none, since they would change tokens without a word. */
export function readTextFile(file: string): string {
  const bytes = readFileSync(file);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new TokenizerError(`${file} is not UTF-8 text; it may be damaged`, error);
  }
}

/** The JSON object in a file. Errors: one line with the file's name. */
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
