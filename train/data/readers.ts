import { createHash } from "node:crypto";
import { KilnError } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";
import { decodeFile, type LeaveOut, rawBytes, sourceFiles } from "./files.ts";
import { CORPUS_VERSION, storyCorpus } from "./stories/grammar.ts";

/** How files are cut into documents. */
export interface ReadOptions {
  /**
   * The field of a JSON line that holds the text; `a.b` is the field b of the object in a, unless a field is called `a.b`.
   * Default: `text`, else `story`.
   */
  field?: string | undefined;
  /**
   * The text between the documents of a plain text file, which belongs to none of them; default `<|endoftext|>`. A line end
   * in it also matches `\r\n`. A separator of line ends alone (two or more) matches any number of blank lines; a line end
   * right after any other separator is part of it. JSON lines are not split by it.
   */
  separator?: string | undefined;
}

/** A document, or a part of one that is too long to hold in memory: the document ends with the part whose `ends` is true. */
export interface TextPart {
  text: string;
  ends: boolean;
}

/** Where training text comes from. */
export interface DocumentSource {
  /** What is read, in words for people. */
  readonly name: string;
  /** The documents, in a fixed order; may be called several times. */
  documents(leaveOut?: LeaveOut): AsyncIterable<TextPart>;
  /** Changes when the documents may have changed: the key of cached token files. */
  hash(): Promise<string>;
}

const END_OF_TEXT = "<|endoftext|>";
/** Plain text longer than this, in characters, is passed on in parts, so that memory stays small. */
const PART = 2 ** 20;
const JSON_FILE = /\.(jsonl|ndjson|json)(\.gz)?$/i;

/** The built-in stories as a source. */
export function storySource(options: { seed: number | string; stories: number }): DocumentSource {
  const { seed, stories } = options;
  return {
    name: `${stories} built-in stories (seed ${seed})`,
    async *documents() {
      for (const text of storyCorpus(options)) yield { text, ends: true };
    },
    hash: async () => sha256(`stories ${CORPUS_VERSION} ${typeof seed} ${seed} ${stories}`),
  };
}

/** Text files, JSON lines, gzip of either, and folders of them as a source. */
export function fileSource(paths: readonly string[], options: ReadOptions = {}): DocumentSource {
  return {
    name: paths.join(", "),
    documents: (leaveOut) => readDocuments(paths, options, leaveOut),
    hash: () => hashFiles(sourceFiles(paths), options),
  };
}

/**
 * Reads all documents of files and folders, one after the other, with no more than a part in memory (JSON lines are held
 * whole). Texts stay as they are, byte for byte. Gzip is recognised by its content. JSON lines are recognised by name or by
 * a first line that is a JSON object; other files are text. Documents of white space only are left out and reported. Errors
 * (KilnError): what `sourceFiles` and `decodeFile` refuse, a bad JSON line (with its number), a line without the text field
 * (with the fields that it has), no document at all.
 */
export async function* readDocuments(
  paths: readonly string[],
  options: ReadOptions = {},
  leaveOut: LeaveOut = () => {},
): AsyncGenerator<TextPart> {
  let isAllEmpty = true;
  for (const file of sourceFiles(paths, leaveOut)) {
    let isNothing = true;
    let isStart = true;
    for await (const part of readFile(file, options)) {
      const isEmpty = isStart && part.ends && part.text.trim() === "";
      isStart = part.ends;
      isNothing = false;
      isAllEmpty &&= isEmpty;
      if (isEmpty) leaveOut("empty documents");
      else yield part;
    }
    if (isNothing) leaveOut("empty files");
  }
  if (isAllEmpty) {
    throw new KilnError(`no text found in ${paths.join(", ")}: name files that have some`, {
      code: "corpus_empty",
    });
  }
}

async function* readFile(file: string, options: ReadOptions): AsyncGenerator<TextPart> {
  const chunks = decodeFile(file);
  const first = await chunks.next();
  if (first.done === true) return;
  const all = (async function* () {
    yield first.value;
    yield* chunks;
  })();
  if (isJsonLines(file, first.value)) yield* jsonDocuments(file, splitLines(file, all), options.field);
  else yield* textDocuments(all, options.separator ?? END_OF_TEXT);
}

function isJsonLines(file: string, start: string): boolean {
  if (JSON_FILE.test(file)) {
    if (/^\s*\[/.test(start)) {
      throw new KilnError(`${file} is one JSON array; write one JSON object per line (JSONL) instead`);
    }
    return true;
  }
  if (!/^\s*\{/.test(start)) return false;
  try {
    return typeof JSON.parse(start.trimStart().split("\n")[0]) === "object";
  } catch {
    return false;
  }
}

/** Lines without their line feed; to JSON, a carriage return before it is white space. */
export async function* splitLines(file: string, chunks: AsyncIterable<string>): AsyncGenerator<string> {
  let open = "";
  for await (const chunk of chunks) {
    // Text without a line end is only collected: splitting it again and again would take quadratic time.
    if (!chunk.includes("\n")) {
      if (open.length + chunk.length > 2 ** 28) {
        throw new KilnError(
          `${file} has a line of more than ${2 ** 28} characters: JSONL has one record per line`,
        );
      }
      open += chunk;
      continue;
    }
    const lines = (open + chunk).split("\n");
    open = lines.pop()!;
    yield* lines;
  }
  if (open !== "") yield open;
}

/** The pattern of a separator; it never matches the empty text. */
function separatorPattern(separator: string): RegExp {
  if (/^\n{2,}$/.test(separator)) return /\r?\n(?:[ \t]*\r?\n)+/g;
  const escaped = separator.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&").replaceAll("\n", "\\r?\\n");
  return new RegExp(separator.endsWith("\n") ? escaped : `${escaped}(?:\\r?\\n)?`, "g");
}

async function* textDocuments(chunks: AsyncIterable<string>, separator: string): AsyncGenerator<TextPart> {
  const pattern = separatorPattern(separator);
  let open = "";
  let searched = 0;
  let inside = false;
  for await (const chunk of chunks) {
    open += chunk;
    let start = 0;
    pattern.lastIndex = searched;
    for (let match = pattern.exec(open); match !== null; match = pattern.exec(open)) {
      // A separator that reaches the end may continue in the next chunk.
      if (pattern.lastIndex === open.length) break;
      yield { text: open.slice(start, match.index), ends: true };
      start = pattern.lastIndex;
      inside = false;
    }
    open = open.slice(start);
    searched = settledLength(open, separator);
    if (searched > PART) {
      yield { text: open.slice(0, searched), ends: false };
      open = open.slice(searched);
      searched = 0;
      inside = true;
    }
  }
  const rest = open.split(pattern);
  // A separator at the end of a file is not followed by another document, not even an empty one.
  if (rest.at(-1) === "" && (rest.length > 1 || !inside)) rest.pop();
  for (const text of rest) yield { text, ends: true };
}

/** How much of a text without a whole separator cannot be part of the next one; never half of a character. */
function settledLength(text: string, separator: string): number {
  let end = Math.max(0, text.length - 2 * separator.length - 2);
  // A run of white space may be the start of blank lines; the limit keeps endless ones out of memory.
  const least = end - 2 ** 16;
  while (end > 0 && end > least && /\s/.test(text[end - 1])) end--;
  const code = text.charCodeAt(end - 1);
  return code >= 0xd800 && code < 0xdc00 ? end - 1 : end;
}

async function* jsonDocuments(
  file: string,
  lines: AsyncIterable<string>,
  field?: string,
): AsyncGenerator<TextPart> {
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
    if (!isObject(value)) {
      throw new KilnError(`${where} should be a JSON object such as {"text": "..."}`);
    }
    const text = textOf(value, field, where);
    if (/\p{Surrogate}/u.test(text)) {
      throw new KilnError(
        `${where} has half of a surrogate pair (\\ud800 to \\udfff) in its text: not Unicode`,
      );
    }
    yield { text, ends: true };
  }
}

function textOf(record: Record<string, unknown>, field: string | undefined, where: string): string {
  const name = field ?? ["text", "story"].find((usual) => Object.hasOwn(record, usual));
  const text = name === undefined ? undefined : lookUp(record, name);
  if (typeof text === "string") return text;
  const wanted = name === undefined ? `"text" or "story"` : `"${name}"`;
  const problem = text === undefined ? "has no field" : "has no text in field";
  const found = fieldNames(record).join(", ") || "none";
  throw new KilnError(
    `${where} ${problem} ${wanted}; its fields are: ${found} (choose one: --set data.field=NAME, in kiln eval --field NAME)`,
    { code: "field_missing" },
  );
}

/** The value of a field, or of a field inside fields (`a.b`). */
function lookUp(record: Record<string, unknown>, name: string): unknown {
  if (Object.hasOwn(record, name)) return record[name];
  let value: unknown = record;
  for (const key of name.split("."))
    value = isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined;
  return value;
}

/** The names of fields as `lookUp` takes them, including those inside objects. */
function fieldNames(record: Record<string, unknown>): string[] {
  return Object.entries(record).flatMap(([key, value]) =>
    isObject(value) ? Object.keys(value).map((inner) => `${key}.${inner}`) : [key],
  );
}

async function hashFiles(files: readonly string[], options: ReadOptions): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([options.field ?? null, options.separator ?? END_OF_TEXT]));
  for (const file of files) {
    const content = createHash("sha256");
    for await (const chunk of rawBytes(file)) content.update(chunk);
    hash.update(`${JSON_FILE.test(file)} ${content.digest("hex")}\n`);
  }
  return hash.digest("hex");
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
