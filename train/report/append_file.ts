import { closeSync, fsyncSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";

/** Appends whole buffers to a file; errors become one KilnError line that names it. */
export class AppendFile {
  readonly path: string;
  readonly #descriptor: number;

  constructor(path: string, flags: string) {
    this.path = path;
    try {
      makeFolder(dirname(path));
      this.#descriptor = openSync(path, flags);
    } catch (error) {
      throw writeError(path, error);
    }
  }

  append(bytes: Uint8Array): void {
    this.#guard(() => {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#descriptor, bytes, done);
    });
  }

  truncate(length: number): void {
    this.#guard(() => ftruncateSync(this.#descriptor, length));
  }

  flush(): void {
    this.#guard(() => fsyncSync(this.#descriptor));
  }

  close(): void {
    this.flush();
    closeSync(this.#descriptor);
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      throw writeError(this.path, error);
    }
  }
}
