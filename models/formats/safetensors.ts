import { readSync } from "node:fs";
import { type FileHandle, open as openFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fromHalf } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import {
  atomicWriteFile,
  currentDirectory,
  isObject,
  readError,
  readJson,
  writeJson,
} from "../../core/platform/files.ts";
import {
  arrays,
  byteLength,
  corrupt,
  DTYPES,
  type HostDtype,
  headerLength,
  parseHeader,
  quoted,
  type TensorEntry,
} from "./safetensors_header.ts";

export type { HostDtype };

/** A tensor in host memory: `bytes` holds product(shape) elements of `dtype`, row-major, little-endian. */
export interface HostTensor {
  dtype: HostDtype;
  shape: number[];
  bytes: Uint8Array;
}

// One fs.read call cannot take 2 GiB or more.
const READ_CHUNK_BYTES = 1 << 30;

/**
 * Reads a whole safetensors file that is already in memory. The tensors' `bytes` are views of `bytes`, not copies.
 * `name` is what error messages call the file. Throws KilnError (`safetensors_invalid`) on any malformed input.
 */
export function parseSafetensors(bytes: Uint8Array, name: string): Map<string, HostTensor> {
  const length = headerLength(bytes, bytes.length, name);
  const { tensors } = parseHeader(bytes.subarray(8, 8 + length), bytes.length, name);
  const read = [...tensors].map(([key, { dtype, shape, begin, end }]) => {
    return [key, { dtype, shape, bytes: bytes.subarray(begin, end) }] as const;
  });
  return new Map(read);
}

/**
 * All tensors of a `.safetensors` file (or those named), or of the shards that a `*.safetensors.index.json` lists.
 * Throws KilnError when a file is missing or malformed, or when a shard lacks a tensor that the index promises.
 */
export async function readSafetensors(
  path: string,
  names?: readonly string[],
): Promise<Map<string, HostTensor>> {
  return readFile(path, names, null);
}

/** @param open the files of which tensors are read later; null: all are read now. */
async function readFile(
  path: string,
  names: readonly string[] | undefined,
  open: OpenFiles | null,
): Promise<Map<string, HostTensor>> {
  if (path.endsWith(".index.json")) return readShards(path, open);
  const handle = await openFile(path, "r").catch((error) => {
    throw readError(path, error);
  });
  open?.keep(handle);
  try {
    const { size } = await handle.stat();
    const prefix = await readExactly(handle, 0, Math.min(8, size), path);
    const length = headerLength(prefix, size, path);
    const header = parseHeader(await readExactly(handle, 8, length, path), size, path);
    const read = new Map<string, HostTensor>();
    // Memory for each tensor by itself would have the garbage collector look after every few of them.
    const isSmall = open === null && names === undefined && size <= READ_CHUNK_BYTES;
    const whole = isSmall ? await readExactly(handle, 0, size, path) : null;
    for (const name of names ?? header.tensors.keys()) {
      const entry = header.tensors.get(name);
      if (!entry) throw new KilnError(`${path} has no tensor ${quoted(name)}`);
      if (open !== null) {
        read.set(name, open.tensor(handle, entry, path));
        continue;
      }
      const { dtype, shape, begin, end } = entry;
      const bytes = whole?.subarray(begin, end) ?? (await readExactly(handle, begin, end - begin, path));
      read.set(name, { dtype, shape, bytes });
    }
    return read;
  } catch (error) {
    throw error instanceof KilnError ? error : readError(path, error);
  } finally {
    if (open === null) await handle.close();
  }
}

/** Files whose tensors are read one after the other into the same memory. */
class OpenFiles {
  readonly #handles: FileHandle[] = [];
  #room = new Uint8Array(0);

  keep(handle: FileHandle): void {
    this.#handles.push(handle);
  }

  tensor({ fd }: FileHandle, { dtype, shape, begin, end }: TensorEntry, path: string): HostTensor {
    const read = () => this.#read(fd, begin, end - begin, path);
    return {
      dtype,
      shape,
      get bytes() {
        return read();
      },
    };
  }

  #read(fd: number, start: number, length: number, path: string): Uint8Array {
    if (this.#room.length < length) this.#room = new Uint8Array(length);
    const bytes = this.#room.subarray(0, length);
    for (let done = 0; done < length; ) {
      const step = Math.min(READ_CHUNK_BYTES, length - done);
      const count = readSync(fd, bytes, done, step, start + done);
      if (count === 0) throw corrupt(path, "it became shorter while it was being read");
      done += count;
    }
    return bytes;
  }

  async close(): Promise<void> {
    for (const handle of this.#handles) await handle.close();
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

async function readShards(indexPath: string, open: OpenFiles | null): Promise<Map<string, HostTensor>> {
  const index = (await readJson(indexPath)) as { weight_map?: unknown } | null;
  const map = index?.weight_map;
  if (!isObject(map)) {
    throw new KilnError(`${indexPath} has no "weight_map" object that says which file holds which tensor`);
  }
  const namesOf = new Map<string, string[]>();
  for (const [name, shard] of Object.entries(map)) {
    // A shard named "../x" or "/x" would read outside the model directory.
    if (typeof shard !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(shard)) {
      const given = quoted(String(shard));
      throw new KilnError(`${indexPath} maps ${quoted(name)} to ${given}, not a file beside it`);
    }
    namesOf.set(shard, [...(namesOf.get(shard) ?? []), name]);
  }
  const tensors = new Map<string, HostTensor>();
  for (const [shard, names] of namesOf) {
    const read = await readFile(join(dirname(indexPath), shard), names, open);
    for (const [name, tensor] of read) tensors.set(name, tensor);
  }
  return tensors;
}

/** The weights of a Hugging Face model directory: `model.safetensors`, or its sharded form if only that exists. */
export async function readModelWeights(directory: string): Promise<Map<string, HostTensor>> {
  return readWeights(directory, null);
}

/**
 * Gives `use` the weights of `readModelWeights`, whose `bytes` are read when they are asked for, into memory that the next tensor
 * takes: of a model that goes to a device, no more than a tensor is then in host memory. They are not to be kept beyond that.
 */
export async function withModelWeights<T>(
  directory: string,
  use: (weights: ReadonlyMap<string, HostTensor>) => T,
): Promise<T> {
  const open = new OpenFiles();
  try {
    return use(await readWeights(directory, open));
  } finally {
    await open.close();
  }
}

async function readWeights(directory: string, open: OpenFiles | null): Promise<Map<string, HostTensor>> {
  const current = await currentDirectory(directory);
  for (const name of ["model.safetensors", "model.safetensors.index.json"]) {
    const path = join(current, name);
    try {
      return await readFile(path, undefined, open);
    } catch (error) {
      const { code, message } = error as KilnError;
      if (code !== "file_missing" || !message.startsWith(path)) throw error;
    }
  }
  throw new KilnError(`${directory} has neither model.safetensors nor model.safetensors.index.json`, {
    code: "file_missing",
  });
}

type Entries = Map<string, HostTensor> | Record<string, HostTensor>;

/** The header bytes (length prefix included), then the tensors in file order. Same tensors, same bytes. */
function layout(entries: Entries, metadata: Record<string, string>): Uint8Array[] {
  const named = [...(entries instanceof Map ? entries : Object.entries(entries))];
  named.sort(
    ([a, x], [b, y]) => DTYPES.indexOf(y.dtype) - DTYPES.indexOf(x.dtype) || (a < b ? -1 : a > b ? 1 : 0),
  );
  // Text is joined by hand: an object would reorder names that look like integers and lose "__proto__".
  const fields = Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of named) {
    if (name === "__metadata__") throw new KilnError('a tensor cannot be named "__metadata__"');
    if (bytes.length !== byteLength(dtype, shape)) {
      throw new KilnError(
        `tensor ${quoted(name)} has ${bytes.length} bytes, which ${dtype} [${shape}] does not need`,
      );
    }
    const offsets = [offset, offset + bytes.length];
    fields.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offsets}]}`,
    );
    offset += bytes.length;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(8 + padded).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
  head.set(json, 8);
  return [head, ...named.map(([, { bytes }]) => bytes)];
}

/** A safetensors file as bytes. Deterministic: dtype order of the reference writer, then names. */
export function serializeSafetensors(entries: Entries, metadata: Record<string, string> = { format: "pt" }) {
  const parts = layout(entries, metadata);
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
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
  await atomicWriteFile(path, layout(entries, metadata));
}

/**
 * Writes the weights of a model directory: `model.safetensors`, or where they take more than `maxBytes`, shards of at most
 * that (a larger tensor has one for itself) and their index, by the names of huggingface_hub.
 */
export async function writeModelWeights(
  directory: string,
  entries: ReadonlyMap<string, HostTensor>,
  maxBytes: number,
): Promise<void> {
  const shards: Map<string, HostTensor>[] = [];
  let room = 0;
  let total = 0;
  for (const [name, tensor] of entries) {
    const { length } = tensor.bytes;
    if (length > room || shards.length === 0) {
      shards.push(new Map());
      room = maxBytes;
    }
    shards.at(-1)!.set(name, tensor);
    room -= length;
    total += length;
  }
  if (shards.length === 1) return writeSafetensors(join(directory, "model.safetensors"), shards[0]);
  const weightMap: Record<string, string> = {};
  const number = (n: number) => String(n).padStart(5, "0");
  for (const [index, shard] of shards.entries()) {
    const file = `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`;
    await writeSafetensors(join(directory, file), shard);
    for (const name of shard.keys()) weightMap[name] = file;
  }
  const index = { metadata: { total_size: total }, weight_map: weightMap };
  await writeJson(join(directory, "model.safetensors.index.json"), index);
}

/** Wraps host numbers as a tensor without copying. Throws KilnError when the length does not fit the shape. */
export function hostTensor(dtype: HostDtype, shape: readonly number[], data: ArrayBufferView): HostTensor {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  if (bytes.length !== byteLength(dtype, shape)) {
    throw new KilnError(`${bytes.length} bytes do not make a ${dtype} tensor of shape [${shape}]`);
  }
  return { dtype, shape: [...shape], bytes };
}

/** The elements as stored: a view if the bytes are aligned, else a copy. */
function stored({ dtype, bytes }: HostTensor): InstanceType<(typeof arrays)[HostDtype]> {
  if (dtype === "BOOL") return bytes.map((byte) => Number(byte !== 0));
  const size = arrays[dtype].BYTES_PER_ELEMENT;
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  return new arrays[dtype](aligned.buffer as ArrayBuffer, aligned.byteOffset, bytes.length / size);
}

/** The values as float32 (F64 and wide integers are rounded). Shares memory with an F32 tensor where aligned. */
export function toFloat32(tensor: HostTensor): Float32Array {
  const values = stored(tensor);
  if (values instanceof Float32Array) return values;
  if (tensor.dtype === "F16") return Float32Array.from(values as Uint16Array, fromHalf);
  if (tensor.dtype === "BF16")
    return new Float32Array(Uint32Array.from(values as Uint16Array, (bits) => bits << 16).buffer);
  return Float32Array.from(values as Iterable<number | bigint>, Number);
}

/** The values of a U32 tensor as they are, of others as float32. */
export function toNumbers(tensor: HostTensor): Uint32Array | Float32Array {
  return tensor.dtype === "U32" ? (stored(tensor) as Uint32Array) : toFloat32(tensor);
}

/** The values of an integer or bool tensor as int32. Throws KilnError for float dtypes and values beyond int32. */
export function toInt32(tensor: HostTensor): Int32Array {
  const { dtype } = tensor;
  if (dtype.includes("F")) {
    throw new KilnError(`a tensor of dtype ${dtype} holds no integers; expected an integer or BOOL dtype`);
  }
  return Int32Array.from(stored(tensor) as Iterable<number | bigint>, (element, index) => {
    const value = Number(element);
    if (value === (value | 0)) return value;
    throw new KilnError(`value ${value} at index ${index} does not fit into int32`);
  });
}
