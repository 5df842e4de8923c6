import { createWriteStream } from "node:fs";
import { buffer } from "node:stream/consumers";
import { firstLine } from "../../../core/platform/files.ts";
import { extract } from "./extract.ts";

/** Reads the file on standard input, whose name is the argument, and writes what is in it to descriptor 3, a line of JSON. */
export async function run(): Promise<void> {
  const answer = await read();
  await new Promise<void>((resolve) => {
    createWriteStream("", { fd: 3 }).end(`${JSON.stringify(answer)}\n`, () => resolve());
  });
  // Parsers leave workers and timers behind.
  process.exit(0);
}

async function read(): Promise<{ read: unknown } | { refused: string }> {
  try {
    return { read: await extract(await buffer(process.stdin), process.argv[2] ?? "") };
  } catch (error) {
    return { refused: firstLine(error) };
  }
}
