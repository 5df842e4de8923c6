import { KilnError } from "../../core/errors.ts";
import { decodeFile, type Encoding, unpackedBytes } from "./files.ts";

/** How a text file is to be decoded; `guess` is a line for the user if the file itself does not say. */
export interface DetectedEncoding {
  encoding: Encoding;
  guess: string | null;
}

/**
 * The encoding of a text file: UTF-16 if it starts with that byte order mark or if every other byte of it is zero, UTF-8 if
 * all of it is valid, else Windows-1252, the usual superset of Latin-1. Reads the file once.
 * Errors: what `decodeFile` refuses otherwise, for example binary files.
 */
export async function detectEncoding(file: string): Promise<DetectedEncoding> {
  const start = await firstBytes(file, 4096);
  if (start[0] === 0xff && start[1] === 0xfe) return { encoding: "utf-16le", guess: null };
  if (start[0] === 0xfe && start[1] === 0xff) return { encoding: "utf-16be", guess: null };
  const zeros = [0, 0];
  for (const [i, byte] of start.entries()) if (byte === 0) zeros[i % 2]++;
  for (const [side, encoding] of [
    [0, "utf-16be"],
    [1, "utf-16le"],
  ] as const) {
    if (zeros[side] > 0.4 * (start.length / 2) && zeros[1 - side] === 0) {
      return { encoding, guess: `${file} has no byte order mark: read as ${encoding.toUpperCase()}` };
    }
  }
  try {
    for await (const _ of decodeFile(file));
    return { encoding: "utf-8", guess: null };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code !== "not_utf8") throw error;
    const [, byte = ""] = error.message.match(/\((byte .*?)\)/) ?? [];
    const guess = `${file} is not UTF-8 (${byte}): read as Latin-1 (Windows-1252); if its letters look wrong, convert it with iconv`;
    return { encoding: "windows-1252", guess };
  }
}

async function firstBytes(file: string, most: number): Promise<Uint8Array> {
  for await (const chunk of unpackedBytes(file)) return chunk.subarray(0, most);
  return new Uint8Array(0);
}
