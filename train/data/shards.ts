import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { DocumentSource, TextPart } from "./readers.ts";

/**
 * The header of a token file. The file is little-endian: 4096 bytes of this JSON padded with spaces, the tokens, and then
 * two uint32 arrays with one entry per document: its tokens and its bytes of UTF-8 text.
 */
export interface ShardHeader {
  format: "kiln-tokens";
  version: 2;
  dtype: "uint16" | "uint32";
  /** All tokens, begin and end tokens of documents included. */
  tokens: number;
  documents: number;
  /** UTF-8 bytes of all texts: what bits per byte divide by. */
  text_bytes: number;
  vocab_size: number;
  /** Put before each document, or null. */
  bos_id: number | null;
  /** Put after each document, or null. */
  eos_id: number | null;
  tokenizer_hash: string;
  source_hash: string;
  /** What was left out of the source, and how often: files of other kinds, empty documents, ... */
  left_out: Record<string, number>;
  /** Tokens that stand for text unknown to the tokenizer: that text is lost. */
  unknown_tokens: number;
  /** Cuts in long texts that may have changed ids, because no harmless place was found. */
  hard_cuts: number;
}

/** A part of a token file: `length` tokens of one document, from `start` on, which encode `bytes` of text. */
export interface Span {
  start: number;
  length: number;
  bytes: number;
}

const HEADER_BYTES = 4096;
/** Characters that go through the tokenizer at once; a single text is cut at half of that. */
const BATCH_CHARACTERS = 2 ** 19;
const LONGEST_TEXT = 2 ** 18;

/** How a source becomes tokens. */
export interface EncodeOptions {
  /** Whether names of special tokens in a text (`</s>`) become these tokens; by default they are plain text. */
  parseSpecialTokens?: boolean;
}

/**
 * Encodes documents into a token file. Each becomes [bos] + tokens + [eos], if the tokenizer has these (bos only if the
 * tokenizer puts one before prompts too, so that training and use look alike). Memory: half a million characters of text at
 * a time (long texts are cut into pieces, see `Tokenizer.cut`), plus eight bytes for each document. The file appears whole
 * or not at all (temporary file, fsync, rename). `origin` goes into the header. Errors: no document; a full disk or one that
 * cannot be written.
 */
export async function writeShard(
  file: string,
  documents: AsyncIterable<TextPart> | Iterable<TextPart>,
  tokenizer: Tokenizer,
  origin: Pick<ShardHeader, "source_hash" | "left_out">,
  options: EncodeOptions = {},
): Promise<ShardHeader> {
  const temporary = `${file}.${process.pid}.tmp`;
  let descriptor: number | null = null;
  try {
    makeFolder(dirname(file));
    descriptor = openSync(temporary, "w");
    const writer = new ShardWriter(descriptor, tokenizer, options);
    for await (const part of documents) await writer.add(part);
    const header = await writer.finish(origin);
    fsyncSync(descriptor);
    renameSync(temporary, file);
    return header;
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall === undefined ? error : writeError(file, error);
  } finally {
    if (descriptor !== null) {
      closeSync(descriptor);
      rmSync(temporary, { force: true });
    }
  }
}

class ShardWriter {
  readonly #descriptor: number;
  readonly #tokenizer: Tokenizer;
  readonly #options: EncodeOptions & { addSpecialTokens: false };
  readonly #bosId: number | null;
  readonly #dtype: "uint16" | "uint32";
  readonly #lengths: number[] = [];
  readonly #bytes: number[] = [];
  #unknownTokens = 0;
  #hardCuts = 0;
  /** The part of the current document that is not in a piece yet. */
  #open = "";
  #pieces: (TextPart & { starts: boolean })[] = [];
  #isInside = false;
  #characters = 0;
  #position = HEADER_BYTES;

  constructor(descriptor: number, tokenizer: Tokenizer, options: EncodeOptions) {
    this.#descriptor = descriptor;
    this.#tokenizer = tokenizer;
    const { parseSpecialTokens = false } = options;
    this.#options = { parseSpecialTokens, addSpecialTokens: false };
    this.#bosId = tokenizer.addsBos ? tokenizer.bosId : null;
    this.#dtype = tokenizer.vocabSize <= 2 ** 16 ? "uint16" : "uint32";
  }

  async add({ text, ends }: TextPart): Promise<void> {
    this.#open += text;
    while (this.#open.length > LONGEST_TEXT) {
      const { end, next, isExact } = await this.#tokenizer.cut(this.#open, LONGEST_TEXT, this.#options);
      if (!isExact) this.#hardCuts++;
      await this.#queue(this.#open.slice(0, end), false);
      this.#bytes[this.#bytes.length - 1] += Buffer.byteLength(this.#open.slice(end, next));
      this.#open = this.#open.slice(next);
    }
    if (!ends) return;
    if (this.#open !== "" || this.#isInside) await this.#queue(this.#open, true);
    this.#open = "";
  }

  async finish(origin: Pick<ShardHeader, "source_hash" | "left_out">): Promise<ShardHeader> {
    await this.#encode();
    if (this.#lengths.length === 0) throw new KilnError("the corpus is empty: name text with --data");
    const tokens = this.#lengths.reduce((sum, length) => sum + length, 0);
    this.#write(new Uint8Array((4 - (this.#position % 4)) % 4));
    this.#write(Uint32Array.from(this.#lengths));
    this.#write(Uint32Array.from(this.#bytes));
    const header: ShardHeader = {
      format: "kiln-tokens",
      version: 2,
      dtype: this.#dtype,
      tokens,
      documents: this.#lengths.length,
      text_bytes: this.#bytes.reduce((sum, bytes) => sum + bytes, 0),
      vocab_size: this.#tokenizer.vocabSize,
      bos_id: this.#bosId,
      eos_id: this.#tokenizer.eosId,
      tokenizer_hash: this.#tokenizer.hash(),
      ...origin,
      unknown_tokens: this.#unknownTokens,
      hard_cuts: this.#hardCuts,
    };
    const text = `${JSON.stringify(header).padEnd(HEADER_BYTES - 1)}\n`;
    this.#writeAt(Buffer.from(text), 0);
    return header;
  }

  /** Adds a piece of the current document. */
  async #queue(text: string, ends: boolean): Promise<void> {
    const starts = !this.#isInside;
    if (starts) this.#bytes.push(0);
    this.#bytes[this.#bytes.length - 1] += Buffer.byteLength(text);
    this.#pieces.push({ text, starts, ends });
    this.#isInside = !ends;
    this.#characters += text.length;
    if (this.#characters >= BATCH_CHARACTERS) await this.#encode();
  }

  async #encode(): Promise<void> {
    const texts = this.#pieces.map(({ text }) => text);
    const encoded = await this.#tokenizer.encodeBatch(texts, this.#options);
    const { eosId, unknownId } = this.#tokenizer;
    const total = encoded.reduce((sum, ids) => sum + ids.length + 2, 0);
    const out = this.#dtype === "uint16" ? new Uint16Array(total) : new Uint32Array(total);
    let at = 0;
    encoded.forEach((ids, i) => {
      const { starts, ends } = this.#pieces[i];
      const before = at;
      if (unknownId !== null) for (const id of ids) if (id === unknownId) this.#unknownTokens++;
      if (starts && this.#bosId !== null) out[at++] = this.#bosId;
      out.set(ids, at);
      at += ids.length;
      if (ends && eosId !== null) out[at++] = eosId;
      if (starts) this.#lengths.push(0);
      this.#lengths[this.#lengths.length - 1] += at - before;
    });
    this.#write(out.subarray(0, at));
    this.#pieces = [];
    this.#characters = 0;
  }

  #write(data: Uint8Array | Uint16Array | Uint32Array): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#writeAt(bytes, this.#position);
    this.#position += bytes.length;
  }

  #writeAt(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.#descriptor, bytes, done, bytes.length - done, position + done);
    }
  }
}

/** Where batches take tokens from: a token file, or a list in memory. */
export type TokenReader = Pick<TokenShard, "read">;

/** An open token file. Document boundaries are in memory, tokens are read from disk as they are asked for. */
export class TokenShard {
  readonly header: ShardHeader;
  /** One span per document, in the order of the source. */
  readonly documents: readonly Span[];
  readonly #descriptor: number;
  readonly #tokenBytes: 2 | 4;

  constructor(file: string) {
    if (!existsSync(file)) throw new KilnError(`token file ${file} does not exist`);
    this.#descriptor = openSync(file, "r");
    try {
      this.header = this.#readHeader(file);
      this.#tokenBytes = this.header.dtype === "uint16" ? 2 : 4;
      this.documents = this.#readDocuments(file);
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  /** Copies `count` tokens from `start` on into `out` at `at`. */
  read(start: number, count: number, out: Int32Array, at = 0): void {
    if (start < 0 || count < 0 || start + count > this.header.tokens) {
      throw new RangeError(`tokens ${start}..${start + count} of ${this.header.tokens}`);
    }
    const bytes = this.#readBytes(HEADER_BYTES + start * this.#tokenBytes, count * this.#tokenBytes);
    out.set(this.#tokenBytes === 2 ? new Uint16Array(bytes) : new Uint32Array(bytes), at);
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #readHeader(file: string): ShardHeader {
    try {
      const text = new TextDecoder().decode(this.#readBytes(0, HEADER_BYTES));
      const header = JSON.parse(text) as ShardHeader;
      if (header.format === "kiln-tokens" && header.version === 2) return header;
    } catch (error) {
      throw unusable(`${file} is not a whole kiln token file`, error);
    }
    throw unusable(`${file} is not a kiln token file of version 2`);
  }

  #readDocuments(file: string): Span[] {
    const { tokens, documents } = this.header;
    const tokensEnd = HEADER_BYTES + tokens * this.#tokenBytes;
    const tables = tokensEnd + ((4 - (tokensEnd % 4)) % 4);
    const expected = tables + 8 * documents;
    const actual = fstatSync(this.#descriptor).size;
    if (actual !== expected) {
      throw unusable(`${file} is damaged: ${actual} bytes instead of ${expected}`);
    }
    const lengths = new Uint32Array(this.#readBytes(tables, 4 * documents));
    const bytes = new Uint32Array(this.#readBytes(tables + 4 * documents, 4 * documents));
    let start = 0;
    return Array.from(lengths, (length, i) => {
      const span = { start, length, bytes: bytes[i] };
      start += length;
      return span;
    });
  }

  #readBytes(position: number, length: number): ArrayBuffer {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const count = readSync(this.#descriptor, bytes, done, length - done, position + done);
      if (count === 0) throw unusable("a token file ends too early");
      done += count;
    }
    return bytes.buffer;
  }
}

const unusable = (problem: string, cause?: unknown) =>
  new KilnError(`${problem}; delete it and it is made again`, { cause });

export function openShard(file: string): TokenShard {
  return new TokenShard(file);
}

/**
 * The token file of a source: the one in `cacheDir` if this text was encoded with this tokenizer before, else a new one. The
 * name is a hash of everything that decides its content, so a changed file or tokenizer never gets stale tokens; a damaged
 * file is made again.
 */
export async function cachedShard(
  source: DocumentSource,
  tokenizer: Tokenizer,
  cacheDir: string,
  options: EncodeOptions = {},
): Promise<{ shard: TokenShard; file: string; isCached: boolean }> {
  const source_hash = await source.hash();
  const content = `2 ${source_hash} ${tokenizer.hash()} ${options.parseSpecialTokens ?? false}`;
  const key = createHash("sha256").update(content).digest("hex").slice(0, 32);
  const file = join(cacheDir, `${key}.tokens`);
  if (existsSync(file)) {
    try {
      return { shard: openShard(file), file, isCached: true };
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
    }
  }
  const left_out: Record<string, number> = {};
  const documents = source.documents((what) => {
    // The header has little room: beyond 40 kinds, the others are counted together.
    const kind = what in left_out || Object.keys(left_out).length < 40 ? what : "other files";
    left_out[kind] = (left_out[kind] ?? 0) + 1;
  });
  await writeShard(file, documents, tokenizer, { source_hash, left_out }, options);
  return { shard: openShard(file), file, isCached: false };
}
