import { createReadStream } from "node:fs";
import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { readError, writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import { type Blobs, type Bytes, checkKey, noBlob, type Range } from "./blobs.ts";
import { newId } from "./ids.ts";
import { spool } from "./spool.ts";

/** Blobs as files of a folder. */
export class FileBlobs implements Blobs {
  readonly name: string;
  readonly #folder: string;

  constructor(folder: string) {
    this.name = folder;
    this.#folder = folder;
  }

  #path(key: string): string {
    return join(this.#folder, checkKey(key));
  }

  async put(key: string, bytes: Bytes, { sha256 }: { sha256?: string } = {}): Promise<number> {
    const path = this.#path(key);
    const draft = join(this.#folder, `.tmp-${newId()}`);
    const written = await spool(draft, key, bytes, sha256);
    try {
      makeFolder(dirname(path));
      await rename(draft, path);
    } catch (error) {
      await rm(draft, { force: true }).catch(() => {});
      throw writeError(path, error);
    }
    return written.bytes;
  }

  async get(key: string, range?: Range): Promise<ReadableStream<Uint8Array>> {
    const path = this.#path(key);
    try {
      const file = await open(path, "r"); // here, so that a missing one is told now, not on reading
      const options = range && { start: range.first, end: range.last };
      return Readable.toWeb(createReadStream(path, { fd: file, ...options })) as ReadableStream<Uint8Array>;
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === "ENOENT" ? noBlob(this, key) : readError(path, error);
    }
  }

  async stat(key: string): Promise<{ bytes: number } | null> {
    const found = await stat(this.#path(key)).catch(() => null);
    return found?.isFile() ? { bytes: found.size } : null;
  }

  async *list(prefix = "", after = ""): AsyncGenerator<{ key: string; bytes: number }> {
    yield* this.#below("", prefix, after);
  }

  /** Folders sort as their names with `/` behind, as whole keys do. */
  async *#below(
    above: string,
    prefix: string,
    after: string,
  ): AsyncGenerator<{ key: string; bytes: number }> {
    const entries = await readdir(join(this.#folder, above), { withFileTypes: true }).catch((error) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw readError(join(this.#folder, above), error);
    });
    const names = entries
      .filter((entry) => !entry.name.startsWith("."))
      .map((entry) => `${above}${entry.name}${entry.isDirectory() ? "/" : ""}`)
      .sort();
    for (const name of names) {
      if (name.endsWith("/")) {
        if (name.startsWith(prefix) || prefix.startsWith(name)) yield* this.#below(name, prefix, after);
      } else if (name.startsWith(prefix) && name > after) {
        const found = await this.stat(name);
        if (found) yield { key: name, bytes: found.bytes };
      }
    }
  }

  async delete(key: string): Promise<boolean> {
    const path = this.#path(key);
    try {
      await rm(path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
      throw writeError(path, error);
    }
  }
}
