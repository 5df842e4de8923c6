import { createHmac, randomBytes, randomUUID } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  createReadStream,
  createWriteStream,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { KilnError } from "../errors.ts";
import { textIfPresent, writeError } from "./files.ts";
import { makeFolder } from "./folders.ts";
import { takeLock } from "./lock.ts";

export interface AppendLogOptions {
  /** When what was written is forced to the disk; default each second. A crash of the process alone loses nothing. */
  fsync?: "never" | "1s" | "always" | undefined;
  /** Size at which the file is put aside as `name.N.jsonl.gz`; default 64 MiB. */
  rotateBytes?: number | undefined;
  /** Also put it aside on the first line of a new day (UTC). */
  rotateDaily?: boolean | undefined;
}

const stem = (path: string) => path.replace(/\.jsonl$/, "");

/** The numbered files that a log was put aside as, the oldest first: [number, path]. */
function partsOf(path: string): [number, string][] {
  const name = basename(stem(path));
  const own = readdirSync(dirname(path)).flatMap((file): [number, string][] => {
    const number = file.startsWith(`${name}.`) && file.slice(name.length).match(/^\.(\d+)\.jsonl(?:\.gz)?$/);
    return number ? [[Number(number[1]), join(dirname(path), file)]] : [];
  });
  const packed = new Set(own.map(([, file]) => file));
  // A part is in both forms for the moment in which it is packed.
  return own.filter(([, file]) => !packed.has(`${file}.gz`)).sort(([a], [b]) => a - b);
}

/** All files of a log, in the order of their lines. */
export function logFiles(path: string): string[] {
  const parts = partsOf(path).map(([, file]) => file);
  return statSync(path, { throwIfNoEntry: false }) ? [...parts, path] : parts;
}

/**
 * An append-only file of lines. Several processes may share it: each line is one write. What a power cut left of a last line is
 * moved to `FILE.torn`.
 */
export class AppendLog {
  readonly path: string;
  readonly #options: Required<{ [K in keyof AppendLogOptions]: NonNullable<AppendLogOptions[K]> }>;
  #file = -1;
  #inode = -1;
  #key: Buffer | undefined;
  #syncs: NodeJS.Timeout | undefined;
  #isCut = false;
  #packing: Promise<void> = Promise.resolve();

  /** @throws KilnError for a file that cannot be written. */
  constructor(
    path: string,
    { fsync = "1s", rotateBytes = 64 * 2 ** 20, rotateDaily = false }: AppendLogOptions = {},
  ) {
    this.path = path;
    this.#options = { fsync, rotateBytes, rotateDaily };
    try {
      makeFolder(dirname(path));
      this.#open();
      this.#setTornAside();
    } catch (error) {
      throw writeError(path, error);
    }
    this.#pack();
  }

  /** Forces the last lines to the disk and waits for files that are being packed. */
  async close(): Promise<void> {
    clearTimeout(this.#syncs);
    if (this.#file >= 0) {
      if (this.#options.fsync !== "never") fsyncSync(this.#file);
      closeSync(this.#file);
    }
    this.#file = -1;
    await this.#packing;
  }

  #open(): void {
    if (this.#file >= 0) closeSync(this.#file);
    this.#file = openSync(this.path, "a+");
    this.#inode = fstatSync(this.#file).ino;
  }

  /** Writes a line, whose end is added. @throws KilnError where it cannot be written. */
  write(text: string): void {
    if (this.#file < 0) throw new KilnError(`${this.path} was closed: open it again`);
    const line = `${text}\n`;
    const bytes = Buffer.from(this.#isCut ? `\n${line}` : line);
    try {
      this.#rotate(bytes.length);
      const written = writeSync(this.#file, bytes);
      this.#isCut = written < bytes.length;
      if (this.#isCut) throw Object.assign(new Error("the disk is full"), { code: "ENOSPC" });
      if (this.#options.fsync === "always") fsyncSync(this.#file);
    } catch (error) {
      throw writeError(this.path, error);
    }
    if (this.#options.fsync === "1s")
      this.#syncs ??= setTimeout(() => {
        this.#syncs = undefined;
        fsync(this.#file, () => {}); // an error shows at the next write
      }, 1000).unref();
  }

  /** Follows a file that another process has put aside, and puts it aside itself where it is full or of another day. */
  #rotate(coming: number): void {
    const now = statSync(this.path, { throwIfNoEntry: false });
    if (now?.ino !== this.#inode) {
      this.#open();
      return;
    }
    const { rotateBytes, rotateDaily } = this.#options;
    const day = (time: number) => Math.floor(time / 86_400_000);
    const isFull = now.size + coming > rotateBytes || (rotateDaily && day(now.mtimeMs) < day(Date.now()));
    if (now.size === 0 || !isFull) return;
    this.#alone(() => {
      if (statSync(this.path).ino !== this.#inode) return;
      const last = partsOf(this.path).at(-1)?.[0] ?? 0;
      renameSync(this.path, `${stem(this.path)}.${last + 1}.jsonl`);
    });
    this.#open();
    this.#pack();
  }

  /** Does something while no other process does; leaves it to the other one where one does. */
  #alone(work: () => void): void {
    let release: () => void;
    try {
      release = takeLock(`${this.path}.lock`, () => new KilnError("busy", { code: "busy" }));
    } catch (error) {
      if ((error as KilnError).code === "busy") return;
      throw error;
    }
    try {
      work();
    } finally {
      release();
    }
  }

  /** Packs files put aside. The newest may still get a line from a process that has it open, so it waits for two seconds. */
  #pack(): void {
    const isSettled = (file: string) => Date.now() - statSync(file).mtimeMs > 2000;
    const files = partsOf(this.path).flatMap(([, file]) =>
      file.endsWith(".gz") || !isSettled(file) ? [] : [file],
    );
    const pack = async (file: string) => {
      const draft = `${file}.gz.${process.pid}`;
      await pipeline(createReadStream(file), createGzip(), createWriteStream(draft));
      await rename(draft, `${file}.gz`);
      await rm(file, { force: true });
    };
    // What cannot be packed, because the disk is full or another process was quicker, stays readable as it is.
    for (const file of files) this.#packing = this.#packing.then(() => pack(file)).catch(() => {});
  }

  #setTornAside(): void {
    const { size } = fstatSync(this.#file);
    const last = Buffer.alloc(1);
    if (size === 0 || (readSync(this.#file, last, 0, 1, size - 1) === 1 && last[0] === 10)) return;
    this.#alone(() => {
      const text = readFileSync(this.path);
      const end = text.lastIndexOf(10) + 1;
      // Another process may have gone on writing: then the line was not torn.
      if (text.length !== size || statSync(this.path).size !== size || end === size) return;
      appendFileSync(`${this.path}.torn`, `${text.subarray(end).toString("utf8")}\n`);
      const file = openSync(this.path, "r+");
      ftruncateSync(file, end);
      closeSync(file);
    });
  }

  /** What stands for a user in the log, always the same: by a key in its folder, which the first that needs one makes. */
  pseudonym(user: string): string {
    this.#key ??= keyOf(join(dirname(this.path), "pseudonym.key"));
    return `u-${createHmac("sha256", this.#key).update(user).digest("hex").slice(0, 16)}`;
  }
}

/** The key of a folder; the first process that needs one makes it, for its user alone. */
function keyOf(path: string): Buffer {
  if (textIfPresent(path) === null) {
    const draft = `${path}.${randomUUID()}`;
    writeFileSync(draft, randomBytes(32).toString("hex"), { mode: 0o600 });
    try {
      linkSync(draft, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw writeError(path, error);
    } finally {
      rmSync(draft);
    }
  }
  return Buffer.from(readFileSync(path, "utf8").trim(), "hex");
}
