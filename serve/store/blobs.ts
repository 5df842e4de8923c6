import { createHash, type Hash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import { storeError } from "./store.ts";

export type Bytes = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** First and last byte, counted from 0, both included. */
export interface Range {
  first: number;
  last: number;
}

/**
 * Files that are too large for rows, by a key such as `users/ID/SHA256`. A key is there whole or not at all. Throws KilnError with
 * `store_key` for a key that might be a path elsewhere, `store_no_blob` where there is none, `store_differs` where the bytes are not
 * those that were said, and `disk_full` and `store_lost` for what the caller cannot help.
 */
export interface Blobs {
  readonly name: string;
  /** Keeps bytes; gives how many. Where `sha256` is given and theirs is another, nothing is kept. */
  put(key: string, bytes: Bytes, expected?: { sha256?: string }): Promise<number>;
  get(key: string, range?: Range): Promise<ReadableStream<Uint8Array>>;
  /** How many bytes it has; null where there is none. */
  stat(key: string): Promise<{ bytes: number } | null>;
  /** The keys that begin with `prefix`, in order of their bytes, those after `after` alone. */
  list(prefix?: string, after?: string): AsyncIterable<{ key: string; bytes: number }>;
  /** Says whether there was one. */
  delete(key: string): Promise<boolean>;
}

/** Names alone, none of which is hidden: no key leads out of the folder, or is two keys to a disk that ignores case. */
export function checkKey(key: string): string {
  if (key.length <= 512 && /^[a-z\d_-][a-z\d_.-]*(\/[a-z\d_-][a-z\d_.-]*)*$/.test(key)) return key;
  const shown = JSON.stringify(key.slice(0, 80));
  throw storeError(
    "key",
    `${shown} is no key of a blob: lower-case names of letters, digits, _ . -, with / between`,
  );
}

export const noBlob = (where: Blobs, key: string) =>
  storeError("no_blob", `there is no ${key} in ${where.name}`);

/** Lets bytes through, and counts and hashes them. */
export function hashed(): { through: Transform; hash: Hash; bytes: () => number } {
  const hash = createHash("sha256");
  let bytes = 0;
  const through = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.length;
      done(null, chunk);
    },
  });
  return { through, hash, bytes: () => bytes };
}

/**
 * Writes bytes to a file of no lasting name and flushes it. Throws where they are not those of `sha256`; the file is then gone.
 */
export async function spool(
  file: string,
  key: string,
  bytes: Bytes,
  expected: string | undefined,
): Promise<{ bytes: number; sha256: string }> {
  const { through, hash, bytes: count } = hashed();
  try {
    makeFolder(dirname(file));
    await pipeline(Readable.from(bytes), through, createWriteStream(file, { flags: "wx", flush: true }));
    const sha256 = hash.digest("hex");
    if (expected !== undefined && sha256 !== expected)
      throw storeError(
        "differs",
        `the bytes of ${key} have SHA-256 ${sha256}, not ${expected}: nothing was kept`,
      );
    return { bytes: count(), sha256 };
  } catch (error) {
    await rm(file, { force: true }).catch(() => {});
    throw writeError(file, error);
  }
}
