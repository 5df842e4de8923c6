import { createHash, type Hash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import type { Bytes } from "./blobs.ts";
import { storeError } from "./store.ts";

// Apart from blobs.ts, whose declarations a package's user compiles without @types/node.

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
