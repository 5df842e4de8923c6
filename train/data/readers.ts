import { createHash } from "node:crypto";
import { closeSync, createReadStream, existsSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { pipeline, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { KilnError } from "../../core/errors.ts";
import { CORPUS_VERSION, storyCorpus } from "./corpus.ts";

/** How files are cut into documents. */
export interface ReadOptions {
  /** The field of a JSON line that holds the text. Default: `text`, else `story`. */
  field?: string;
  /**
   * What ends a document of a plain text file: `endoftext` the marker `<|endoftext|>` (a file without one is one
   * document), `blank-line` an empty line, `line` every line. Default `endoftext`. The marker always counts.
   */
  separator?: "endoftext" | "blank-line" | "line";
}

/** Where training text comes from. */
export interface DocumentSource {
  /** For people: what is read. */
  readonly name: string;
  /** The documents, in a fixed order; may be called several times. */
  documents(): AsyncIterable<string>;
  /** Changes when the documents may have changed: the key of cached token files. */
  hash(): Promise<string>;
}

const END_OF_TEXT = "<|endoftext|>";
/** A plain text longer than this (characters) is cut at a line end, so that memory stays small. */
const LONGEST_DOCUMENT = 4 * 2 ** 20;
const TEXT_FILE = /\.(txt|text|md|jsonl|ndjson|json)(\.gz)?$/i;
const JSON_FILE = /\.(jsonl|ndjson|json)(\.gz)?$/i;

/** The built-in stories as a source. */
export function storySource(options: { seed: number | string; stories: number }): DocumentSource {
  const { seed, stories } = options;
  return {
    name: `${stories} built-in stories (seed ${seed})`,
    async *documents() {
      yield* storyCorpus(options);
    },
    hash: async () => sha256(`stories ${CORPUS_VERSION} ${typeof seed} ${seed} ${stories}`),
  };
}

/** Text files, JSON lines, gzip of either, and folders of them as a source. */
export function fileSource(paths: readonly string[], options: ReadOptions = {}): DocumentSource {
  return {
    name: paths.join(", "),
    documents: () => readDocuments(paths, options),
    hash: () => hashFiles(sourceFiles(paths), options),
  };
}

/**
 * The files behind `paths`, folders expanded (sorted by name, hidden files left out).
 * Errors: a path that does not exist, a folder without text files, no path at all.
 */
export function sourceFiles(paths: readonly string[]): string[] {
  if (paths.length === 0) throw new KilnError("no corpus given: name a text file, a .jsonl file or a folder");
  return paths.flatMap((path) => {
    if (!existsSync(path)) {
      throw new KilnError(
        `corpus ${path} does not exist (looked from ${process.cwd()}); check the path, or leave it out for the built-in stories`,
        { code: "corpus_missing" },
      );
    }
    if (!statSync(path).isDirectory()) return [path];
    const found = filesBelow(path);
    if (found.length === 0) {
      throw new KilnError(
        `folder ${path} holds no text; kiln reads .txt, .md, .jsonl, .ndjson and gzip (.gz) of these`,
        {
          code: "corpus_empty",
        },
      );
    }
    return found;
  });
}

function filesBelow(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.name.startsWith(".")) return [];
    if (statSync(path).isDirectory()) return filesBelow(path);
    return TEXT_FILE.test(entry.name) ? [path] : [];
  });
}

/**
 * Reads all documents of files and folders, one after the other, without holding more than a document in memory.
 * Gzip is recognised by its content. JSON lines are recognised by name or by a first line that is a JSON object;
 * other files are text. Documents of white space only are left out.
 * Errors (KilnError): missing path, binary or non-UTF-8 content, damaged gzip, a bad JSON line (with its number),
 * a line without the text field (with the fields that it has), no document at all.
 */
export async function* readDocuments(
  paths: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<string> {
  let documents = 0;
  for (const file of sourceFiles(paths)) {
    for await (const text of readFile(file, options)) {
      for (const document of text.split(END_OF_TEXT)) {
        if (document.trim() === "") continue;
        documents++;
        yield document;
      }
    }
  }
  if (documents === 0) {
    throw new KilnError(`no text found in ${paths.join(", ")}: the corpus is empty`, {
      code: "corpus_empty",
    });
  }
}

async function* readFile(file: string, options: ReadOptions): AsyncGenerator<string> {
  let parse: ((lines: AsyncIterable<string>) => AsyncIterable<string>) | null = null;
  const chunks = decodeFile(file);
  const first = await chunks.next();
  if (first.done === true) return;
  if (isJsonLines(file, first.value)) parse = (lines) => jsonDocuments(file, lines, options.field);
  else parse = (lines) => textDocuments(lines, options.separator ?? "endoftext");
  yield* parse(splitLines(first.value, chunks));
}

/** The characters of a file, unpacked if it is gzip. The first chunk decides whether this is text at all. */
async function* decodeFile(file: string): AsyncGenerator<string> {
  const utf8 = new TextDecoder("utf-8");
  let isFirst = true;
  try {
    for await (const chunk of openBytes(file) as AsyncIterable<Buffer>) {
      if (isFirst) checkText(file, chunk);
      isFirst = false;
      yield utf8.decode(chunk, { stream: true });
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (!code.startsWith("Z_")) throw error;
    throw new KilnError(`${file} is a damaged or cut-off gzip file; fetch it again`, { cause: error });
  }
  yield utf8.decode();
}

function openBytes(file: string): Readable {
  const raw = createReadStream(file, { highWaterMark: 2 ** 18 });
  if (!isGzip(file)) return raw;
  // pipeline hands an error of the file on to the reader of the unpacked side, which reports it.
  return pipeline(raw, createGunzip({ chunkSize: 2 ** 18 }), () => {});
}

function isGzip(file: string): boolean {
  const magic = Buffer.alloc(2);
  const descriptor = openSync(file, "r");
  try {
    return readSync(descriptor, magic, 0, 2, 0) === 2 && magic[0] === 0x1f && magic[1] === 0x8b;
  } finally {
    closeSync(descriptor);
  }
}

function checkText(file: string, chunk: Buffer): void {
  const code = "corpus_binary";
  if ((chunk[0] === 0xff && chunk[1] === 0xfe) || (chunk[0] === 0xfe && chunk[1] === 0xff)) {
    throw new KilnError(`${file} is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8`, { code });
  }
  if (chunk.includes(0)) throw new KilnError(`${file} is a binary file, not text`, { code });
  try {
    // Streaming, because the chunk may end in the middle of a character.
    new TextDecoder("utf-8", { fatal: true }).decode(chunk, { stream: true });
  } catch {
    throw new KilnError(
      `${file} is not UTF-8 text; convert it first, for example: iconv -f LATIN1 -t UTF-8`,
      {
        code,
      },
    );
  }
}

function isJsonLines(file: string, start: string): boolean {
  if (JSON_FILE.test(file)) {
    if (/^\s*\[/.test(start)) {
      throw new KilnError(`${file} is one JSON array; write one JSON object a line (JSONL) instead`);
    }
    return true;
  }
  if (!/^\s*\{/.test(start)) return false;
  try {
    return typeof JSON.parse(start.trimStart().split("\n")[0]!) === "object";
  } catch {
    return false;
  }
}

async function* splitLines(first: string, rest: AsyncIterable<string>): AsyncGenerator<string> {
  let open = "";
  const take = function* (chunk: string) {
    const lines = (open + chunk).split("\n");
    open = lines.pop()!;
    for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
  };
  yield* take(first);
  for await (const chunk of rest) {
    // Without a line end, text is only collected: splitting again and again would cost the square of its length.
    if (chunk.includes("\n")) yield* take(chunk);
    else open += chunk;
  }
  if (open !== "") yield open;
}

async function* textDocuments(
  lines: AsyncIterable<string>,
  separator: NonNullable<ReadOptions["separator"]>,
): AsyncGenerator<string> {
  let open: string[] = [];
  let length = 0;
  const close = () => {
    const text = open.join("\n").trim();
    open = [];
    length = 0;
    return text;
  };
  for await (const line of lines) {
    const ends = separator === "blank-line" && line.trim() === "";
    if (!ends) open.push(line);
    length += line.length + 1;
    const full = length > LONGEST_DOCUMENT;
    if (ends || separator === "line" || line.includes(END_OF_TEXT) || full) {
      // What follows the last marker in a line belongs to the next document.
      const text = close();
      const cut = text.lastIndexOf(END_OF_TEXT);
      if (cut >= 0 && cut + END_OF_TEXT.length < text.length) open.push(text.slice(cut + END_OF_TEXT.length));
      yield cut < 0 ? text : text.slice(0, cut).trim();
    }
  }
  yield close();
}

async function* jsonDocuments(
  file: string,
  lines: AsyncIterable<string>,
  field?: string,
): AsyncGenerator<string> {
  let number = 0;
  for await (const line of lines) {
    number++;
    if (line.trim() === "") continue;
    const where = `${file} line ${number}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw new KilnError(`${where} is not valid JSON (${(error as Error).message})`, { cause: error });
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new KilnError(`${where} should be a JSON object such as {"text": "..."}`);
    }
    const record = value as Record<string, unknown>;
    const name = field ?? ["text", "story"].find((usual) => usual in record);
    const text = name === undefined ? undefined : record[name];
    if (typeof text !== "string") {
      const wanted = name === undefined ? `"text" or "story"` : `"${name}"`;
      const problem = text === undefined ? "has no field" : "has no text in field";
      const found = Object.keys(record).join(", ") || "none";
      throw new KilnError(`${where} ${problem} ${wanted}; its fields are: ${found}`, {
        code: "field_missing",
      });
    }
    yield text;
  }
}

async function hashFiles(files: readonly string[], options: ReadOptions): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([options.field ?? null, options.separator ?? "endoftext"]));
  for (const file of files) {
    const content = createHash("sha256");
    for await (const chunk of createReadStream(file, { highWaterMark: 2 ** 20 }))
      content.update(chunk as Buffer);
    hash.update(`${JSON_FILE.test(file)} ${content.digest("hex")}\n`);
  }
  return hash.digest("hex");
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
