import { closeSync, existsSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteFile, readError } from "../../core/platform/files.ts";
import {
  type ByteSource,
  corrupt,
  type GgufHeader,
  type GgufType,
  type GgufValue,
  ggufBytes,
  MAGIC,
  MAX_NAME_BYTES,
  parseGgufHeader,
  scalarBytes,
  tensorTypes,
  typeCode,
  VERSION,
} from "./gguf_header.ts";
import { quoted } from "./safetensors_header.ts";

/** A tensor of a GGUF file, row-major in blocks of `type`. */
export interface GgufTensor {
  type: GgufType;
  shape: readonly number[];
  /** Reads or encodes it, when its turn comes: a model is never in memory twice. */
  bytes(): Uint8Array;
}

/** What a GGUF file holds. */
export interface Gguf {
  metadata: ReadonlyMap<string, GgufValue>;
  tensors: ReadonlyMap<string, GgufTensor>;
}

/** A GGUF file that is already in memory; tensors are views of it. Throws KilnError (`gguf_invalid`). */
export function parseGguf(bytes: Uint8Array, name: string): Gguf {
  const source = {
    name,
    size: bytes.length,
    read: (at: number, length: number) => bytes.subarray(at, at + length),
  };
  return withTensors(parseGgufHeader(source), source.read);
}

/** Reads the header of a GGUF file; its tensors are read when they are asked for. Throws a one-line KilnError. */
export function readGguf(path: string): Gguf {
  return withTensors(withSource(path, parseGgufHeader), (at, length) =>
    withSource(path, ({ read }) => read(at, length)),
  );
}

function withTensors({ metadata, tensors }: GgufHeader, read: ByteSource["read"]): Gguf {
  const lazy = [...tensors].map(([name, { type, shape, begin, length }]) => {
    return [name, { type, shape, bytes: () => read(begin, length) }] as const;
  });
  return { metadata, tensors: new Map(lazy) };
}

/** Whether a path is a file that ends in .gguf or begins as GGUF does. */
export function isGguf(path: string): boolean {
  if (path.toLowerCase().endsWith(".gguf")) return !existsSync(path) || statSync(path).isFile();
  try {
    return withSource(
      path,
      ({ size, read }) => size >= 4 && new DataView(read(0, 4).buffer).getUint32(0, true) === MAGIC,
    );
  } catch {
    return false;
  }
}

function withSource<T>(path: string, use: (source: ByteSource) => T): T {
  let file: number | null = null;
  try {
    const opened = openSync(path, "r");
    file = opened;
    return use({
      name: path,
      size: fstatSync(opened).size,
      read: (at, length) => readExactly(opened, at, length, path),
    });
  } catch (error) {
    throw error instanceof KilnError ? error : readError(path, error);
  } finally {
    if (file !== null) closeSync(file);
  }
}

// One read cannot take 2 GiB or more.
const READ_CHUNK_BYTES = 1 << 30;

function readExactly(file: number, start: number, length: number, path: string): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const count = readSync(file, bytes, done, Math.min(READ_CHUNK_BYTES, length - done), start + done);
    if (count === 0) throw corrupt(path, "it became shorter while it was being read");
    done += count;
  }
  return bytes;
}

/** Writes a GGUF file (version 3, little-endian, aligned to 32 bytes), all or nothing. Same content, same bytes. */
export async function writeGguf(path: string, content: Gguf): Promise<void> {
  await atomicWriteFile(path, ggufParts(content));
}

const alignment = 32;
const padded = (length: number) => Math.ceil(length / alignment) * alignment;

/** The parts of a GGUF file in their order. */
export function* ggufParts({ metadata, tensors }: Gguf): Generator<Uint8Array> {
  const u32 = (value: number) => scalarBytes("u32", value);
  const u64 = (value: number) => scalarBytes("u64", value);
  const text = (value: string) => scalarBytes("string", value);
  const head = [u32(MAGIC), u32(VERSION), u64(tensors.size), u64(metadata.size)];
  for (const [key, { type, value }] of metadata) {
    head.push(text(key));
    if (Array.isArray(value)) head.push(typeCode("array"), typeCode(type), u64(value.length));
    else head.push(typeCode(type));
    for (const item of [value].flat()) head.push(scalarBytes(type, item));
  }
  let offset = 0;
  for (const [name, { type, shape }] of tensors) {
    const length = ggufBytes(type, shape);
    if (length === null || Buffer.byteLength(name) > MAX_NAME_BYTES) {
      throw new KilnError(
        `tensor ${quoted(name)} of shape [${shape}] cannot be written as ${type} to a GGUF file`,
      );
    }
    head.push(text(name), u32(shape.length), ...[...shape].reverse().map(u64));
    head.push(u32(tensorTypes[type].code), u64(offset));
    offset += padded(length);
  }
  yield* withPadding(Buffer.concat(head));
  for (const tensor of tensors.values()) yield* withPadding(tensor.bytes());
}

function* withPadding(bytes: Uint8Array): Generator<Uint8Array> {
  yield bytes;
  yield new Uint8Array(padded(bytes.length) - bytes.length);
}
