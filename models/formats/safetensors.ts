import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteFile, currentDirectory, readError, readJson } from "../../core/platform/files.ts";
import { quoted, scanHeader } from "./safetensors_header.ts";

/**
 * The safetensors format (github.com/huggingface/safetensors, README "Format"): u64 little-endian header length, a JSON
 * header of {name: {dtype, shape, data_offsets}}, then the tensors' bytes back to back, row-major, little-endian.
 * A file is untrusted input: everything the header claims is checked against the file's size before a tensor is allocated.
 */

/** Bytes of one element, in the reference writer's storage order (written from last to first, so data stays aligned). */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
} as const;
const DTYPES = Object.keys(DTYPE_BYTES) as HostDtype[];

export type HostDtype = keyof typeof DTYPE_BYTES;

/** A tensor in host memory: `bytes` holds product(shape) elements of `dtype`, row-major, little-endian. */
export interface HostTensor {
  dtype: HostDtype;
  shape: number[];
  bytes: Uint8Array;
}

/** Where a tensor lies: `begin` and `end` are byte offsets from the start of the file. */
export interface TensorEntry {
  dtype: HostDtype;
  shape: number[];
  begin: number;
  end: number;
}

export interface SafetensorsHeader {
  metadata: Record<string, string>;
  tensors: Map<string, TensorEntry>;
}

const MAX_HEADER_BYTES = 100_000_000;
// One fs.read call cannot take 2 GiB or more.
const READ_CHUNK_BYTES = 1 << 30;

function corrupt(file: string, problem: string): KilnError {
  return new KilnError(`${file} is not a valid safetensors file: ${problem}; fetch or save it again`, {
    code: "safetensors_invalid",
  });
}

/** Checks the 8 length bytes against the file's size and returns the header's length in bytes. */
function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (fileBytes < 8) throw corrupt(file, `it has ${fileBytes} bytes, fewer than the 8 of the header length`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length === 0n) throw corrupt(file, "the header length is 0");
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw corrupt(file, `the header length ${length} is over the limit of ${MAX_HEADER_BYTES} bytes`);
  }
  if (Number(length) > fileBytes - 8) {
    throw corrupt(file, `the header needs ${length} bytes but only ${fileBytes - 8} follow (truncated?)`);
  }
  return Number(length);
}

/** Decodes and checks a header; the returned offsets are all inside a file of `fileBytes` bytes. */
function parseHeader(header: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    throw corrupt(file, "the header is not UTF-8");
  }
  const scanned = scanHeader(text, (problem) => corrupt(file, problem));
  const dataStart = 8 + header.length;
  const dataBytes = fileBytes - dataStart;
  const tensors = new Map<string, TensorEntry>();
  for (const { name, dtype, shape, begin, end } of scanned.entries) {
    const fail = (problem: string) => corrupt(file, `tensor ${quoted(name)} ${problem}`);
    if (!Object.hasOwn(DTYPE_BYTES, dtype)) {
      throw fail(`has dtype ${quoted(dtype)}; kiln reads ${DTYPES.join(", ")}`);
    }
    const bytes = byteLength(dtype as HostDtype, shape);
    if (bytes === null) throw fail(`has a shape [${shape.slice(0, 8)}] whose size overflows`);
    if (begin > end) throw fail(`has data_offsets [${begin}, ${end}] in the wrong order`);
    if (end > dataBytes) {
      throw fail(`ends at byte ${end} of the data, but the file holds only ${dataBytes} (truncated?)`);
    }
    if (end - begin !== bytes) {
      throw fail(`has ${end - begin} bytes, but ${dtype} [${shape.slice(0, 8)}] needs ${bytes}`);
    }
    tensors.set(name, { dtype: dtype as HostDtype, shape, begin: dataStart + begin, end: dataStart + end });
  }
  checkCoverage(tensors, dataStart, fileBytes, file);
  return { metadata: scanned.metadata, tensors };
}

/** The tensors must tile the data exactly: an overlap or a hole could hide other content in the file. */
function checkCoverage(
  tensors: Map<string, TensorEntry>,
  dataStart: number,
  fileBytes: number,
  file: string,
) {
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let cursor = dataStart;
  for (const [name, entry] of ordered) {
    if (entry.begin < cursor) throw corrupt(file, `tensor ${quoted(name)} overlaps the tensor before it`);
    if (entry.begin > cursor) {
      throw corrupt(file, `there is a gap of ${entry.begin - cursor} bytes before tensor ${quoted(name)}`);
    }
    cursor = entry.end;
  }
  if (cursor !== fileBytes) throw corrupt(file, `${fileBytes - cursor} bytes follow the last tensor`);
}

/** Bytes of a tensor, or null where a product passes 2^53. */
function byteLength(dtype: HostDtype, shape: readonly number[]): number | null {
  let bytes: number = DTYPE_BYTES[dtype];
  for (const extent of shape) {
    bytes *= extent;
    if (!Number.isSafeInteger(bytes)) return null;
  }
  return bytes;
}

/**
 * Reads a whole safetensors file that is already in memory. The tensors' `bytes` are views of `bytes`, not copies.
 * `name` is what error messages call the file. Throws KilnError (`safetensors_invalid`) on any malformed input.
 */
export function parseSafetensors(bytes: Uint8Array, name: string): Map<string, HostTensor> {
  const length = headerLength(bytes, bytes.length, name);
  const header = parseHeader(bytes.subarray(8, 8 + length), bytes.length, name);
  const tensors = new Map<string, HostTensor>();
  for (const [key, { dtype, shape, begin, end }] of header.tensors) {
    tensors.set(key, { dtype, shape, bytes: bytes.subarray(begin, end) });
  }
  return tensors;
}

/** A checked safetensors file that reads tensors one at a time; `close` it when done. */
export interface SafetensorsFile extends SafetensorsHeader {
  path: string;
  read(name: string): Promise<HostTensor>;
  close(): Promise<void>;
}

/** Opens a file and checks its header without reading any tensor. Throws KilnError when missing or malformed. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const handle = await open(path, "r").catch((error) => {
    throw readError(path, error);
  });
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw new KilnError(`${path} is not a file; name a .safetensors file`);
    const prefix = await readExactly(handle, 0, Math.min(8, stat.size), path);
    const length = headerLength(prefix, stat.size, path);
    const header = parseHeader(await readExactly(handle, 8, length, path), stat.size, path);
    const read = async (name: string): Promise<HostTensor> => {
      const entry = header.tensors.get(name);
      if (entry === undefined) throw new KilnError(`${path} has no tensor ${quoted(name)}`);
      const bytes = await readExactly(handle, entry.begin, entry.end - entry.begin, path);
      return { dtype: entry.dtype, shape: entry.shape, bytes };
    };
    return { ...header, path, read, close: () => handle.close() };
  } catch (error) {
    await handle.close();
    throw error instanceof KilnError ? error : readError(path, error);
  }
}

async function readExactly(
  handle: FileHandle,
  start: number,
  length: number,
  path: string,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const step = Math.min(READ_CHUNK_BYTES, length - done);
    const { bytesRead } = await handle.read(bytes, done, step, start + done);
    if (bytesRead === 0) throw corrupt(path, "it became shorter while it was being read");
    done += bytesRead;
  }
  return bytes;
}

/**
 * All tensors of a `.safetensors` file, or of the shards that a `*.safetensors.index.json` lists.
 * Throws KilnError when a file is missing or malformed, or when a shard lacks a tensor that the index promises.
 */
export async function readSafetensors(path: string): Promise<Map<string, HostTensor>> {
  if (path.endsWith(".index.json")) return readSharded(path);
  const file = await openSafetensors(path);
  try {
    const tensors = new Map<string, HostTensor>();
    for (const name of file.tensors.keys()) tensors.set(name, await file.read(name));
    return tensors;
  } finally {
    await file.close();
  }
}

async function readSharded(indexPath: string): Promise<Map<string, HostTensor>> {
  const index = await readJson(indexPath);
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new KilnError(`${indexPath} has no "weight_map" object that says which file holds which tensor`);
  }
  const namesByShard = new Map<string, string[]>();
  for (const [name, shard] of Object.entries(map)) {
    // A shard named "../x" or "/x" would read outside the model directory.
    if (
      typeof shard !== "string" ||
      !/^[\w-][\w.-]*\.safetensors$/.test(shard) ||
      basename(shard) !== shard
    ) {
      throw new KilnError(
        `${indexPath} maps ${quoted(name)} to ${quoted(String(shard))}, not a file beside it`,
      );
    }
    namesByShard.set(shard, [...(namesByShard.get(shard) ?? []), name]);
  }
  const tensors = new Map<string, HostTensor>();
  for (const [shard, names] of namesByShard) {
    const file = await openSafetensors(join(dirname(indexPath), shard));
    try {
      for (const name of names) tensors.set(name, await file.read(name));
    } finally {
      await file.close();
    }
  }
  return tensors;
}

/** The weights of a Hugging Face model directory: `model.safetensors`, or its sharded form where only that exists. */
export async function readModelWeights(directory: string): Promise<Map<string, HostTensor>> {
  const current = await currentDirectory(directory);
  const single = join(current, "model.safetensors");
  const index = join(current, "model.safetensors.index.json");
  for (const path of [single, index]) {
    try {
      return await readSafetensors(path);
    } catch (error) {
      const missing =
        error instanceof KilnError && error.code === "file_missing" && error.message.startsWith(path);
      if (!missing) throw error;
    }
  }
  throw new KilnError(`${directory} has neither model.safetensors nor model.safetensors.index.json`, {
    code: "file_missing",
  });
}

type Entries = Map<string, HostTensor> | Record<string, HostTensor>;

/** The header bytes (length prefix included) and the tensors in file order. Same tensors, same bytes. */
function layout(
  entries: Entries,
  metadata: Record<string, string>,
): { head: Uint8Array; parts: Uint8Array[] } {
  const named = [...(entries instanceof Map ? entries : Object.entries(entries))];
  named.sort(
    ([a, x], [b, y]) => DTYPES.indexOf(y.dtype) - DTYPES.indexOf(x.dtype) || (a < b ? -1 : a > b ? 1 : 0),
  );
  // Text is joined by hand: an object would reorder names that look like integers and lose "__proto__".
  const fields = Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of named) {
    if (name === "__metadata__") throw new KilnError('a tensor cannot be named "__metadata__"');
    if (bytes.length !== byteLength(dtype, shape)) {
      throw new KilnError(
        `tensor ${quoted(name)} has ${bytes.length} bytes, which ${dtype} [${shape}] does not need`,
      );
    }
    const end = offset + bytes.length;
    fields.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offset},${end}]}`,
    );
    parts.push(bytes);
    offset = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(8 + padded).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
  head.set(json, 8);
  return { head, parts };
}

/** A safetensors file as bytes. Deterministic: dtype order of the reference writer, then names. */
export function serializeSafetensors(entries: Entries, metadata: Record<string, string> = { format: "pt" }) {
  const { head, parts } = layout(entries, metadata);
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, head.length));
  let offset = 0;
  for (const part of [head, ...parts]) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

/** Writes a safetensors file atomically, tensor by tensor (never a second copy of the model in memory). */
export async function writeSafetensors(
  path: string,
  entries: Entries,
  metadata: Record<string, string> = { format: "pt" },
): Promise<void> {
  const { head, parts } = layout(entries, metadata);
  await atomicWriteFile(path, [head, ...parts]);
}

/** Wraps host numbers as a tensor without copying. Throws KilnError when the length does not fit the shape. */
export function hostTensor(dtype: HostDtype, shape: readonly number[], data: ArrayBufferView): HostTensor {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  if (bytes.length !== byteLength(dtype, shape)) {
    throw new KilnError(`${bytes.length} bytes do not make a ${dtype} tensor of shape [${shape}]`);
  }
  return { dtype, shape: [...shape], bytes };
}

/** `bytes` at an offset that typed arrays accept: the same memory where it is aligned, else a copy. */
function aligned(tensor: HostTensor): { buffer: ArrayBuffer; offset: number; length: number } {
  const size = DTYPE_BYTES[tensor.dtype];
  const bytes = tensor.bytes.byteOffset % size === 0 ? tensor.bytes : tensor.bytes.slice();
  return { buffer: bytes.buffer as ArrayBuffer, offset: bytes.byteOffset, length: bytes.length / size };
}

type Numbers = ArrayLike<number> & Iterable<number>;

function typed(tensor: HostTensor): Numbers | BigInt64Array {
  const { buffer, offset, length } = aligned(tensor);
  switch (tensor.dtype) {
    case "F64":
      return new Float64Array(buffer, offset, length);
    case "F32":
      return new Float32Array(buffer, offset, length);
    case "F16":
      return Float32Array.from(new Uint16Array(buffer, offset, length), decodeF16);
    case "BF16": {
      const wide = Uint32Array.from(new Uint16Array(buffer, offset, length), (bits) => bits << 16);
      return new Float32Array(wide.buffer);
    }
    case "I64":
      return new BigInt64Array(buffer, offset, length);
    case "I32":
      return new Int32Array(buffer, offset, length);
    case "U32":
      return new Uint32Array(buffer, offset, length);
    case "I16":
      return new Int16Array(buffer, offset, length);
    case "U16":
      return new Uint16Array(buffer, offset, length);
    case "I8":
      return new Int8Array(buffer, offset, length);
    case "U8":
      return new Uint8Array(buffer, offset, length);
    case "BOOL":
      return Uint8Array.from(tensor.bytes, (byte) => (byte === 0 ? 0 : 1));
  }
}

/** IEEE 754 binary16 bits to a number. */
function decodeF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The values as float32 (F64 and wide integers are rounded). Shares memory with an F32 tensor where aligned. */
export function toFloat32(tensor: HostTensor): Float32Array {
  const values = typed(tensor);
  if (values instanceof Float32Array) return values;
  if (values instanceof BigInt64Array) return Float32Array.from(values, Number);
  return Float32Array.from(values);
}

/** The values of an integer or bool tensor as int32. Throws KilnError for float dtypes and values beyond int32. */
export function toInt32(tensor: HostTensor): Int32Array {
  const values = typed(tensor);
  if (values instanceof Int32Array) return values;
  if (values instanceof Float32Array || values instanceof Float64Array) {
    throw new KilnError(
      `a tensor of dtype ${tensor.dtype} holds no integers; expected an integer or BOOL dtype`,
    );
  }
  const result = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const value = Number(values[i]);
    if (value !== (value | 0)) throw new KilnError(`value ${value} at index ${i} does not fit into int32`);
    result[i] = value;
  }
  return result;
}
