import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { DocumentSource } from "./readers.ts";

/**
 * The header of a token file. The file is little-endian: 4096 bytes of this JSON padded with spaces, the tokens, and
 * then two uint32 arrays with one entry a document: its tokens and its bytes of UTF-8 text.
 */
export interface ShardHeader {
  format: "kiln-tokens";
  version: 1;
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
}

/** A part of a token file: `length` tokens from `start` that belong to one document, standing for `bytes` of text. */
export interface Span {
  start: number;
  length: number;
  bytes: number;
}

const HEADER_BYTES = 4096;
const BATCH_CHARACTERS = 2 ** 20;

/**
 * Encodes documents into a token file. Each becomes [bos] + tokens + [eos], as far as the tokenizer has these
 * (bos only when it would put one before a prompt as well, so that training and use look alike). Memory: about a
 * megabyte of text plus eight bytes a document. The file appears whole or not at all (temporary file, fsync, rename).
 * Errors: no document; a full disk.
 */
export async function writeShard(
  file: string,
  documents: AsyncIterable<string> | Iterable<string>,
  tokenizer: Tokenizer,
  sourceHash: string,
): Promise<ShardHeader> {
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  const descriptor = openSync(temporary, "w");
  let isOpen = true;
  try {
    const writer = new ShardWriter(descriptor, tokenizer);
    for await (const text of documents) await writer.add(text);
    const header = await writer.finish(sourceHash);
    fsyncSync(descriptor);
    closeSync(descriptor);
    isOpen = false;
    renameSync(temporary, file);
    return header;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOSPC") {
      throw new KilnError(`the disk is full: could not write ${file}; free some space and run again`, {
        cause: error,
      });
    }
    throw error;
  } finally {
    if (isOpen) closeSync(descriptor);
    rmSync(temporary, { force: true });
  }
}

class ShardWriter {
  private readonly descriptor: number;
  private readonly tokenizer: Tokenizer;
  private readonly bosId: number | null;
  private readonly dtype: "uint16" | "uint32";
  private readonly lengths: number[] = [];
  private readonly bytes: number[] = [];
  private texts: string[] = [];
  private characters = 0;
  private position = HEADER_BYTES;

  constructor(descriptor: number, tokenizer: Tokenizer) {
    this.descriptor = descriptor;
    this.tokenizer = tokenizer;
    this.bosId = tokenizer.addsBos ? tokenizer.bosId : null;
    this.dtype = tokenizer.vocabSize <= 2 ** 16 ? "uint16" : "uint32";
  }

  async add(text: string): Promise<void> {
    if (text === "") return;
    this.texts.push(text);
    this.characters += text.length;
    if (this.characters >= BATCH_CHARACTERS) await this.encode();
  }

  async finish(sourceHash: string): Promise<ShardHeader> {
    await this.encode();
    if (this.lengths.length === 0) throw new KilnError("the corpus is empty: there is nothing to train on");
    const tokens = this.lengths.reduce((sum, length) => sum + length, 0);
    this.write(new Uint8Array((4 - (this.position % 4)) % 4));
    this.write(Uint32Array.from(this.lengths));
    this.write(Uint32Array.from(this.bytes));
    const header: ShardHeader = {
      format: "kiln-tokens",
      version: 1,
      dtype: this.dtype,
      tokens,
      documents: this.lengths.length,
      text_bytes: this.bytes.reduce((sum, bytes) => sum + bytes, 0),
      vocab_size: this.tokenizer.vocabSize,
      bos_id: this.bosId,
      eos_id: this.tokenizer.eosId,
      tokenizer_hash: this.tokenizer.hash(),
      source_hash: sourceHash,
    };
    const text = `${JSON.stringify(header).padEnd(HEADER_BYTES - 1)}\n`;
    this.writeAt(Buffer.from(text), 0);
    return header;
  }

  private async encode(): Promise<void> {
    const encoded = await this.tokenizer.encodeBatch(this.texts, { addSpecialTokens: false });
    const { eosId } = this.tokenizer;
    const extra = (this.bosId === null ? 0 : 1) + (eosId === null ? 0 : 1);
    const total = encoded.reduce((sum, ids) => sum + ids.length + extra, 0);
    const out = this.dtype === "uint16" ? new Uint16Array(total) : new Uint32Array(total);
    let at = 0;
    encoded.forEach((ids, i) => {
      if (this.bosId !== null) out[at++] = this.bosId;
      out.set(ids, at);
      at += ids.length;
      if (eosId !== null) out[at++] = eosId;
      this.lengths.push(ids.length + extra);
      this.bytes.push(Buffer.byteLength(this.texts[i]!));
    });
    this.write(out);
    this.texts = [];
    this.characters = 0;
  }

  private write(data: Uint8Array | Uint16Array | Uint32Array): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.writeAt(bytes, this.position);
    this.position += bytes.length;
  }

  private writeAt(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.descriptor, bytes, done, bytes.length - done, position + done);
    }
  }
}

/** An open token file. Document boundaries are in memory, tokens are read from disk as they are asked for. */
export class TokenShard {
  readonly header: ShardHeader;
  /** One span a document, in the order of the source. */
  readonly documents: readonly Span[];
  private readonly descriptor: number;
  private readonly tokenBytes: 2 | 4;

  constructor(file: string) {
    if (!existsSync(file)) throw new KilnError(`token file ${file} does not exist`);
    this.descriptor = openSync(file, "r");
    try {
      this.header = this.readHeader(file);
      this.tokenBytes = this.header.dtype === "uint16" ? 2 : 4;
      this.documents = this.readDocuments(file);
    } catch (error) {
      closeSync(this.descriptor);
      throw error;
    }
  }

  /** Copies `count` tokens from `start` on into `out` at `at`. */
  read(start: number, count: number, out: Int32Array, at = 0): void {
    if (start < 0 || count < 0 || start + count > this.header.tokens) {
      throw new RangeError(`tokens ${start}..${start + count} of ${this.header.tokens}`);
    }
    const bytes = this.readBytes(HEADER_BYTES + start * this.tokenBytes, count * this.tokenBytes);
    out.set(this.tokenBytes === 2 ? new Uint16Array(bytes) : new Uint32Array(bytes), at);
  }

  close(): void {
    closeSync(this.descriptor);
  }

  private readHeader(file: string): ShardHeader {
    try {
      const text = new TextDecoder().decode(this.readBytes(0, HEADER_BYTES));
      const header = JSON.parse(text) as ShardHeader;
      if (header.format === "kiln-tokens" && header.version === 1) return header;
    } catch (error) {
      throw new KilnError(`${file} is not a whole kiln token file; delete it and it is made again`, {
        cause: error,
      });
    }
    throw new KilnError(`${file} is not a kiln token file of version 1; delete it and it is made again`);
  }

  private readDocuments(file: string): Span[] {
    const { tokens, documents } = this.header;
    const tokensEnd = HEADER_BYTES + tokens * this.tokenBytes;
    const tables = tokensEnd + ((4 - (tokensEnd % 4)) % 4);
    const expected = tables + 8 * documents;
    const actual = fstatSync(this.descriptor).size;
    if (actual !== expected) {
      throw new KilnError(
        `${file} is damaged: ${actual} bytes instead of ${expected}; delete it and it is made again`,
      );
    }
    const lengths = new Uint32Array(this.readBytes(tables, 4 * documents));
    const bytes = new Uint32Array(this.readBytes(tables + 4 * documents, 4 * documents));
    let start = 0;
    return Array.from(lengths, (length, i) => {
      const span = { start, length, bytes: bytes[i]! };
      start += length;
      return span;
    });
  }

  private readBytes(position: number, length: number): ArrayBuffer {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const count = readSync(this.descriptor, bytes, done, length - done, position + done);
      if (count === 0) throw new KilnError("a token file ends too early; delete it and it is made again");
      done += count;
    }
    return bytes.buffer;
  }
}

export function openShard(file: string): TokenShard {
  return new TokenShard(file);
}

/**
 * The token file of a source: the one in `cacheDir` if this text was encoded with this tokenizer before, else a
 * new one. The name is a hash of both, so a changed file or tokenizer never meets stale tokens; a damaged file is
 * made again.
 */
export async function prepareShard(
  source: DocumentSource,
  tokenizer: Tokenizer,
  cacheDir: string,
): Promise<{ shard: TokenShard; file: string; isCached: boolean }> {
  const sourceHash = await source.hash();
  const key = createHash("sha256").update(`1 ${sourceHash} ${tokenizer.hash()}`).digest("hex").slice(0, 32);
  const file = join(cacheDir, `${key}.tokens`);
  if (existsSync(file)) {
    try {
      return { shard: openShard(file), file, isCached: true };
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
    }
  }
  await writeShard(file, source.documents(), tokenizer, sourceHash);
  return { shard: openShard(file), file, isCached: false };
}
