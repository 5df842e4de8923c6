import { KilnError } from "../../core/errors.ts";
import { quoted } from "./safetensors_header.ts";

/**
 * The header of a GGUF file (ggml, docs/gguf.md), versions 2 and 3, little-endian: metadata and where each tensor is. A file
 * is untrusted input: every count and length is checked against the bytes that are left before anything is allocated.
 */

/** Types of metadata values, each at the place that is its code; code 9 is a list. */
const VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;
export type GgufValueType = Exclude<(typeof VALUE_TYPES)[number], "array">;
type Scalar = string | number | bigint | boolean;

/** A metadata value, or a list of values of that type; u64 and i64 beyond 2^53 are bigints. */
export interface GgufValue {
  type: GgufValueType;
  value: Scalar | Scalar[];
}

/** Tensor types that kiln reads: their code in the file, and the bytes that a block of elements takes. */
export const tensorTypes = {
  F32: { code: 0, block: 1, bytes: 4 },
  F16: { code: 1, block: 1, bytes: 2 },
  Q4_0: { code: 2, block: 32, bytes: 18 },
  Q8_0: { code: 8, block: 32, bytes: 34 },
  BF16: { code: 30, block: 1, bytes: 2 },
} as const;
export type GgufType = keyof typeof tensorTypes;

/** Where a tensor is. `shape` is row-major (the file has the innermost extent first); `begin` counts from the file's start. */
export interface GgufTensorInfo {
  type: GgufType;
  shape: number[];
  begin: number;
  length: number;
}

export interface GgufHeader {
  metadata: Map<string, GgufValue>;
  tensors: Map<string, GgufTensorInfo>;
}

/** Bytes of a file or of memory, read where asked. */
export interface ByteSource {
  /** What messages call it. */
  readonly name: string;
  readonly size: number;
  /** `length` bytes from `offset` on, all of them inside. */
  read(offset: number, length: number): Uint8Array;
}

export const MAGIC = 0x46554747;
export const VERSION = 3;
/** ggml has room for so many axes, and for names one byte shorter than 64. */
const MAX_RANK = 4;
export const MAX_NAME_BYTES = 63;

export function corrupt(file: string, problem: string): KilnError {
  return new KilnError(`${file} is not a valid GGUF file: ${problem}; fetch or export it again`, {
    code: "gguf_invalid",
  });
}

/** The bytes of `length` elements in rows of `row`, or null where rows are not whole blocks or a product passes 2^53. */
export function ggufBytes(type: GgufType, shape: readonly number[]): number | null {
  const { block, bytes } = tensorTypes[type];
  const row = shape.at(-1) ?? 1;
  const elements = shape.reduce((product, extent) => product * extent, 1);
  const total = (elements / block) * bytes;
  return row % block === 0 && Number.isSafeInteger(elements) && Number.isSafeInteger(total) ? total : null;
}

/** The code of a value's type, as a file has it. */
export const typeCode = (type: (typeof VALUE_TYPES)[number]) => scalarBytes("u32", VALUE_TYPES.indexOf(type));

/** Reads a source from its start in windows, and never past its end. */
class Cursor {
  readonly #source: ByteSource;
  #window: Uint8Array = new Uint8Array(0);
  #windowStart = 0;
  offset = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  get left(): number {
    return this.#source.size - this.offset;
  }

  fail(problem: string): KilnError {
    return corrupt(this.#source.name, problem);
  }

  /** The next bytes, as a view. */
  take(length: number): DataView {
    if (length > this.left) {
      throw this.fail(`it ends at byte ${this.#source.size}, in the middle of its header (truncated?)`);
    }
    let place = this.offset - this.#windowStart;
    if (place + length > this.#window.length) {
      this.#window = this.#source.read(this.offset, Math.min(this.left, Math.max(length, 1 << 18)));
      this.#windowStart = this.offset;
      place = 0;
    }
    this.offset += length;
    return new DataView(this.#window.buffer, this.#window.byteOffset + place, length);
  }

  u32(): number {
    return this.take(4).getUint32(0, true);
  }

  /** A number of things of at least `bytes` bytes each, which must still fit into the file. */
  count(bytes: number, what: string): number {
    const found = this.take(8).getBigUint64(0, true);
    if (found * BigInt(bytes) <= BigInt(this.left)) return Number(found);
    throw this.fail(`it promises ${found} ${what}, but only ${this.left} bytes follow (truncated?)`);
  }

  text(): string {
    const view = this.take(this.count(1, "bytes of text"));
    try {
      return utf8.decode(view);
    } catch {
      throw this.fail("it holds text that is not UTF-8");
    }
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The DataView accessor of each type that has a fixed size, and the size in bytes. */
const accessors = {
  u8: ["Uint8", 1],
  i8: ["Int8", 1],
  u16: ["Uint16", 2],
  i16: ["Int16", 2],
  u32: ["Uint32", 4],
  i32: ["Int32", 4],
  f32: ["Float32", 4],
  bool: ["Uint8", 1],
  u64: ["BigUint64", 8],
  i64: ["BigInt64", 8],
  f64: ["Float64", 8],
} as const;

function readScalar(cursor: Cursor, type: GgufValueType): Scalar {
  if (type === "string") return cursor.text();
  const [accessor, bytes] = accessors[type];
  const value = cursor.take(bytes)[`get${accessor}`](0, true);
  if (type === "bool") return value !== 0;
  return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

/** The bytes of a metadata value without its type. */
export function scalarBytes(type: GgufValueType, value: Scalar): Uint8Array {
  if (type === "string") {
    const text = Buffer.from(String(value));
    return Buffer.concat([scalarBytes("u64", text.length), text]);
  }
  const [accessor, bytes] = accessors[type];
  const view = new DataView(new ArrayBuffer(bytes));
  if (accessor === "BigUint64" || accessor === "BigInt64") view[`set${accessor}`](0, BigInt(value), true);
  else view[`set${accessor}`](0, Number(value), true);
  return new Uint8Array(view.buffer);
}

function readValue(cursor: Cursor, key: string): GgufValue {
  const typeOf = (code: number) => VALUE_TYPES[code] ?? null;
  const type = typeOf(cursor.u32());
  if (type !== null && type !== "array") return { type, value: readScalar(cursor, type) };
  const of = type === "array" ? typeOf(cursor.u32()) : null;
  if (of === null || of === "array") {
    throw cursor.fail(`metadata ${quoted(key)} has a type that is no value and no list of values`);
  }
  // A text has at least its length.
  const least = of === "string" ? 8 : accessors[of][1];
  const length = cursor.count(least, `values of ${quoted(key)}`);
  const value = Array.from({ length }, () => readScalar(cursor, of));
  return { type: of, value };
}

/** Reads and checks a header; every tensor that it returns lies inside the source, and no two share a byte. */
export function parseGgufHeader(source: ByteSource): GgufHeader {
  const cursor = new Cursor(source);
  if (source.size < 24 || cursor.u32() !== MAGIC)
    throw cursor.fail("it does not begin with GGUF and its counts");
  const version = cursor.u32();
  if (version !== 2 && version !== VERSION) {
    throw cursor.fail(`it has version ${version} where kiln reads 2 and 3, little-endian`);
  }
  const tensorCount = cursor.count(24, "tensors");
  const metadata = new Map<string, GgufValue>();
  for (let left = cursor.count(13, "metadata values"); left > 0; left--) {
    const key = cursor.text();
    if (metadata.has(key)) throw cursor.fail(`it has the metadata ${quoted(key)} twice`);
    metadata.set(key, readValue(cursor, key));
  }
  const alignment = metadata.get("general.alignment")?.value ?? 32;
  // A power of two, as ggml asks for.
  if (
    typeof alignment !== "number" ||
    !(alignment >= 1 && alignment <= 2 ** 20) ||
    (alignment & (alignment - 1)) !== 0
  ) {
    throw cursor.fail(`its general.alignment is ${quoted(String(alignment))}, not a power of two up to 2^20`);
  }
  const found = Array.from({ length: tensorCount }, () => readInfo(cursor));
  const dataStart = Math.ceil(cursor.offset / alignment) * alignment;
  return {
    metadata,
    tensors: placed(found, { dataStart, alignment, size: source.size }, (problem) => cursor.fail(problem)),
  };
}

/** What a tensor's entry says; `offset` counts from the start of the data. */
interface Entry {
  name: string;
  type: GgufType;
  shape: number[];
  offset: number;
  length: number;
}

function readInfo(cursor: Cursor): Entry {
  const name = cursor.text();
  const fail = (problem: string) => cursor.fail(`tensor ${quoted(name)} ${problem}`);
  if (new TextEncoder().encode(name).length > MAX_NAME_BYTES)
    throw fail(`has a name of over ${MAX_NAME_BYTES} bytes`);
  const rank = cursor.u32();
  if (rank > MAX_RANK) throw fail(`has ${rank} axes; ggml knows up to ${MAX_RANK}`);
  const extents = Array.from({ length: rank }, () => cursor.take(8).getBigUint64(0, true));
  const code = cursor.u32();
  const offset = Number(cursor.take(8).getBigUint64(0, true));
  const type = (Object.keys(tensorTypes) as GgufType[]).find((key) => tensorTypes[key].code === code);
  if (type === undefined) {
    throw new KilnError(
      `${fail(`has the type ${typeNames[code] ?? code}`).message.split(";")[0]}, which kiln does not read (it reads ` +
        `${Object.keys(tensorTypes).join(", ")}); convert the file with llama-quantize --allow-requantize IN OUT Q8_0`,
      { code: "gguf_type" },
    );
  }
  const shape = extents.map(Number).reverse();
  const length = ggufBytes(type, shape);
  if (length === null) throw fail(`has a shape [${shape}] that ${type} cannot have`);
  return { name, type, shape, offset, length };
}

/** Tensors by name with their places in the file. */
function placed(
  entries: readonly Entry[],
  data: { dataStart: number; alignment: number; size: number },
  fail: (problem: string) => KilnError,
): Map<string, GgufTensorInfo> {
  const tensors = new Map<string, GgufTensorInfo>();
  let end = 0;
  for (const { name, type, shape, offset, length } of [...entries].sort((a, b) => a.offset - b.offset)) {
    const wrong = (problem: string) => fail(`tensor ${quoted(name)} ${problem}`);
    if (offset % data.alignment !== 0)
      throw wrong(`begins at byte ${offset}, no multiple of ${data.alignment}`);
    if (offset < end) throw wrong("overlaps the tensor before it");
    end = offset + length;
    if (data.dataStart + end > data.size) {
      throw wrong(`ends at byte ${data.dataStart + end}, but the file has ${data.size} (truncated?)`);
    }
    if (tensors.has(name)) throw wrong("is there twice");
    tensors.set(name, { type, shape, begin: data.dataStart + offset, length });
  }
  return new Map(entries.map(({ name }) => [name, tensors.get(name)!]));
}

/** Names of ggml's further tensor types, for messages. */
const typeNames: Record<number, string> = {
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  10: "Q2_K",
  11: "Q3_K",
  12: "Q4_K",
  13: "Q5_K",
  14: "Q6_K",
  20: "IQ4_NL",
  23: "IQ4_XS",
};
