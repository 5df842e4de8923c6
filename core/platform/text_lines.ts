import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { usageError } from "../errors.ts";
import { readError } from "./files.ts";

/** The lines of a UTF-8 file, or without a path of standard input, but for blank ones. */
export async function* textLines(path?: string): AsyncGenerator<string> {
  if (path === undefined && process.stdin.isTTY)
    throw usageError("there is no text: give one as an argument, a --file, or lines on standard input");
  const input = path === undefined ? process.stdin : createReadStream(path);
  // readline passes a stream's error on to nobody.
  const failed = new Promise<never>((_, reject) => {
    input.once("error", (error: Error) => reject(readError(path ?? "standard input", error)));
  });
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await Promise.race([lines.next(), failed]);
    if (done) return;
    if (value.trim() !== "") yield value;
  }
}
