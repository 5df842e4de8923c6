import { createReadStream, readdirSync, type Stats, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { extname, join } from "node:path";
import { pipeline, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { KilnError } from "../../core/errors.ts";
import { readError } from "../../core/platform/files.ts";

/** Called once for each thing that is left out of the corpus, with the words that its count is printed beside. */
export type LeaveOut = (what: string) => void;

const TEXT_FILE = /\.(txt|text|md|jsonl|ndjson|json)(\.gz)?$/i;
const READ_BYTES = 2 ** 18;

/**
 * The files that `paths` stand for: those named themselves, whatever their extension, and the text files (by extension) in
 * named folders, sorted by name. Other files in a folder are left out and reported. Errors: no path; a path that does not
 * exist, may not be read, or is a pipe, socket or device; a folder without text.
 */
export function sourceFiles(paths: readonly string[], leaveOut: LeaveOut = () => {}): string[] {
  if (paths.length === 0) throw new KilnError("no corpus given: name a text file, a .jsonl file or a folder");
  return paths.flatMap((path) => {
    const stats = tryStat(path);
    if (stats === null) {
      throw new KilnError(`corpus ${path} does not exist (looked from ${process.cwd()}); check the path`, {
        code: "corpus_missing",
      });
    }
    if (stats.isFile()) return [path];
    if (!stats.isDirectory()) {
      const message = `${path} is a pipe, socket or device; kiln reads a corpus more than once: save it to a file first`;
      throw new KilnError(message, { code: "corpus_special" });
    }
    const found = filesBelow(path, [identity(stats)], leaveOut);
    if (found.length === 0) {
      throw new KilnError(
        `folder ${path} holds no text; kiln reads .txt, .md, .jsonl, .ndjson and gzip (.gz) of these, and any file that is named itself`,
        { code: "corpus_empty" },
      );
    }
    return found;
  });
}

/** `above` are the folders that hold this one, itself included: following a link back to one of them would never end. */
function filesBelow(folder: string, above: readonly string[], leaveOut: LeaveOut): string[] {
  const out = (what: string) => {
    leaveOut(what);
    return [];
  };
  return listFolder(folder).flatMap((name) => {
    if (name.startsWith(".")) return out("hidden files");
    const path = join(folder, name);
    const stats = tryStat(path);
    if (stats === null) return out("broken links");
    if (stats.isDirectory()) {
      const id = identity(stats);
      if (above.includes(id)) return out("links to a folder around them");
      return filesBelow(path, [...above, id], leaveOut);
    }
    if (!stats.isFile()) return out("pipes, sockets and devices");
    if (TEXT_FILE.test(name)) return [path];
    const kind = extname(name);
    return out(kind.length > 1 && kind.length < 12 ? `${kind} files` : "other files");
  });
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    throw readError(folder, error);
  }
}

/** What a path leads to; null if there is nothing. */
function tryStat(path: string): Stats | null {
  try {
    return statSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (["ENOENT", "ENOTDIR", "ELOOP"].includes(code)) return null;
    throw readError(path, error);
  }
}

const identity = ({ dev, ino }: Stats) => `${dev}:${ino}`;

/** The bytes of a file as they are on the disk. Errors: a file that cannot be read. */
export async function* rawBytes(file: string): AsyncGenerator<Uint8Array> {
  try {
    yield* createReadStream(file, { highWaterMark: READ_BYTES }) as AsyncIterable<Buffer>;
  } catch (error) {
    throw readError(file, error);
  }
}

/** What the bytes of a text file stand for. `windows-1252` is Latin-1 with letters and signs at 0x80 to 0x9F. */
export type Encoding = "utf-8" | "utf-16le" | "utf-16be" | "windows-1252";

/**
 * The text of a file, unpacked if its content is gzip; a byte order mark at the start is dropped. Errors (a KilnError with
 * the file's name): what `unpackedBytes` refuses; if the encoding is UTF-8, also UTF-16, a zero byte (binary), and invalid
 * UTF-8 anywhere, with its offset (`not_utf8`).
 */
export async function* decodeFile(file: string, encoding: Encoding = "utf-8"): AsyncGenerator<string> {
  if (encoding === "utf-8") {
    const decoder = new StrictDecoder(file);
    for await (const chunk of unpackedBytes(file)) yield decoder.push(chunk);
    yield decoder.end();
    return;
  }
  const decoder = new TextDecoder(encoding);
  for await (const chunk of unpackedBytes(file)) yield decoder.decode(chunk, { stream: true });
  yield decoder.decode();
}

/**
 * The bytes of a file, unpacked if they are gzip. Errors (a KilnError with the file's name): a file that cannot be read, and
 * gzip that is damaged or unpacks without end.
 */
export async function* unpackedBytes(file: string): AsyncGenerator<Uint8Array> {
  try {
    yield* await openBytes(file);
  } catch (error) {
    if (error instanceof KilnError) throw error;
    if (!(error as NodeJS.ErrnoException).code?.startsWith("Z_")) throw readError(file, error);
    throw new KilnError(`${file} is a damaged or cut-off gzip file; fetch it again`, { cause: error });
  }
}

async function openBytes(file: string): Promise<AsyncIterable<Uint8Array>> {
  const handle = await open(file);
  const magic = await handle.read(new Uint8Array(2), 0, 2, 0).catch(async (error) => {
    await handle.close(); // a folder opens, and cannot be read
    throw error;
  });
  const raw = handle.createReadStream({ highWaterMark: READ_BYTES, start: 0 });
  if (magic.bytesRead < 2 || magic.buffer[0] !== 0x1f || magic.buffer[1] !== 0x8b) return raw;
  const { size } = await handle.stat();
  return unpack(file, raw, size);
}

/** Gzip packs text to a fifth or a tenth; a file that grows this much was made to fill a disk. */
const mostGrowth = 200;

async function* unpack(file: string, raw: Readable, size: number): AsyncGenerator<Uint8Array> {
  // pipeline hands an error of the file on to the reader of the unpacked side, which reports it.
  const gunzip = pipeline(raw, createGunzip({ chunkSize: READ_BYTES }), () => {});
  let bytes = 0;
  for await (const chunk of gunzip as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > 2 ** 28 && bytes > mostGrowth * size) {
      throw new KilnError(
        `${file} unpacks to more than ${mostGrowth} times its ${size} bytes; if that is meant, unpack it and name the result`,
      );
    }
    yield chunk;
  }
}

/** Strict UTF-8 decoding: invalid bytes are an error that says where they are. */
class StrictDecoder {
  readonly #file: string;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true });
  /** Bytes before the current chunk, and the last few of them: a character may have begun there. */
  #offset = 0;
  #last: Uint8Array = new Uint8Array(0);

  constructor(file: string) {
    this.#file = file;
  }

  push(chunk: Uint8Array): string {
    const code = "corpus_binary";
    const [a, b] = chunk;
    if (this.#offset === 0 && ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff))) {
      throw new KilnError(`${this.#file} is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8`, { code });
    }
    const zero = chunk.indexOf(0);
    if (zero >= 0) {
      const message = `${this.#file} is a binary file, not text: it has a zero byte at offset ${this.#offset + zero}`;
      throw new KilnError(message, { code });
    }
    const text = this.#decode(chunk);
    this.#offset += chunk.length;
    this.#last = Buffer.concat([this.#last, chunk.subarray(-3)]).subarray(-3);
    return text;
  }

  end(): string {
    return this.#decode(null);
  }

  #decode(chunk: Uint8Array | null): string {
    try {
      return chunk === null ? this.#utf8.decode() : this.#utf8.decode(chunk, { stream: true });
    } catch (error) {
      const bytes = chunk === null ? this.#last : Buffer.concat([this.#last, chunk]);
      const at = firstInvalid(bytes, this.#last.length);
      const byte = `0x${bytes[at].toString(16).toUpperCase()} at offset ${this.#offset - this.#last.length + at}`;
      throw new KilnError(
        `${this.#file} is not UTF-8 text (byte ${byte}); convert it first, for example: iconv -f LATIN1 -t UTF-8`,
        { code: "not_utf8", cause: error },
      );
    }
  }
}

/**
 * Index of the first invalid UTF-8 sequence. The first `before` bytes precede the chunk and may begin inside a character.
 */
function firstInvalid(bytes: Uint8Array, before: number): number {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let start = 0;
  while (start < before && (bytes[start] & 0xc0) === 0x80) start++;
  for (let i = start; i < bytes.length; i++) {
    try {
      if (utf8.decode(bytes.subarray(i, i + 1), { stream: true }) !== "") start = i + 1;
    } catch {
      break;
    }
  }
  return Math.min(start, bytes.length - 1);
}
