import { KilnError } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";

/**
 * The header of a safetensors file (github.com/huggingface/safetensors, README "Format"): u64 little-endian header length,
 * then JSON of {name: {dtype, shape, data_offsets}}. A file is untrusted input: everything that the header claims is
 * checked against the file's size before a tensor is allocated.
 */

/** The arrays that hold a dtype's elements, in the reference writer's storage order (last to first, so data stays aligned). */
export const arrays = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  I16: Int16Array,
  U16: Uint16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I32: Int32Array,
  U32: Uint32Array,
  F32: Float32Array,
  F64: Float64Array,
  I64: BigInt64Array,
} as const;

export type HostDtype = keyof typeof arrays;
export const DTYPES = Object.keys(arrays) as HostDtype[];

/** Where a tensor is: `begin` and `end` are byte offsets from the start of the file. */
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

type Fail = (problem: string) => KilnError;
const MAX_HEADER_BYTES = 100_000_000;
/** The most axes a tensor may have; a longer shape is an attack or an accident, not a tensor. */
const MAX_RANK = 64;

export function corrupt(file: string, problem: string): KilnError {
  return new KilnError(`${file} is not a valid safetensors file: ${problem}; fetch or save it again`, {
    code: "safetensors_invalid",
  });
}

/** A name fit for a one-line message: quoted, control characters escaped, cut at 80 characters. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
}

/** Bytes of a tensor, or null where a product passes 2^53. */
export function byteLength(dtype: HostDtype, shape: readonly number[]): number | null {
  let bytes: number = arrays[dtype].BYTES_PER_ELEMENT;
  for (const extent of shape) {
    bytes *= extent;
    if (!Number.isSafeInteger(bytes)) return null;
  }
  return bytes;
}

/** Checks the 8 length bytes against the file's size and returns the header's length in bytes. */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
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
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const fail: Fail = (problem) => corrupt(file, problem);
  const { __metadata__: metadata = {}, ...entries } = parseJson(header, fail);
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== "string"))
    throw fail("__metadata__ holds something other than text");
  const dataStart = 8 + header.length;
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(entries)) {
    const entry = parseEntry(value, fileBytes - dataStart, (problem) =>
      fail(`tensor ${quoted(name)} ${problem}`),
    );
    tensors.set(name, { ...entry, begin: dataStart + entry.begin, end: dataStart + entry.end });
  }
  checkCoverage(tensors, fileBytes, dataStart, fail);
  return { metadata: metadata as Record<string, string>, tensors };
}

function parseJson(header: Uint8Array, fail: Fail): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    throw fail("the header is not UTF-8");
  }
  if (text[0] !== "{") throw fail("the header does not start with {");
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    checkTokens(text, fail);
    return value;
  } catch (error) {
    throw error instanceof KilnError ? error : fail("the header is not valid JSON");
  }
}

/** The parts of valid JSON that `checkTokens` looks at: keys and other strings, braces, numbers. */
const token = /"[^"\\]*(?:\\.[^"\\]*)*"\s*:?|[{}]|-?\d[^\s,\]}]*/g;

/**
 * Refuses what JSON.parse would accept silently: of two equal keys it keeps the last (two readers could then see two
 * different files), and it rounds integers above 2^53.
 */
function checkTokens(text: string, fail: Fail): void {
  const open: Set<string>[] = [];
  for (const [part] of text.matchAll(token)) {
    if (part === "{") open.push(new Set());
    else if (part === "}") open.pop();
    else if (part[0] !== '"') {
      if (!/^\d+$/.test(part) || !Number.isSafeInteger(Number(part)))
        throw fail(`it holds ${quoted(part)}, not a whole number below 2^53`);
    } else if (part.endsWith(":")) {
      const key = JSON.parse(part.slice(0, -1)) as string;
      if (open.at(-1)?.has(key)) throw fail(`an object has the key ${quoted(key)} twice`);
      open.at(-1)?.add(key);
    }
  }
}

/** One tensor's entry, with offsets as the file has them: from the start of the data, which has `dataBytes` bytes. */
function parseEntry(value: unknown, dataBytes: number, fail: Fail): TensorEntry {
  if (!isObject(value)) throw fail("is not an object");
  const { dtype, shape, data_offsets: offsets, ...others } = value;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw fail(`has the unknown field ${quoted(unknown)}`);
  if (typeof dtype !== "string" || !isNumbers(shape) || !isNumbers(offsets))
    throw fail("lacks dtype, shape or data_offsets");
  if (shape.length > MAX_RANK) throw fail(`has more than ${MAX_RANK} axes`);
  if (offsets.length !== 2) throw fail("needs two data_offsets");
  if (!Object.hasOwn(arrays, dtype)) {
    throw fail(`has dtype ${quoted(dtype)}; kiln reads ${DTYPES.join(", ")}`);
  }
  const [begin, end] = offsets as [number, number];
  const bytes = byteLength(dtype as HostDtype, shape);
  const shown = `[${shape.slice(0, 8)}]`;
  if (bytes === null) throw fail(`has a shape ${shown} whose size overflows`);
  if (begin > end) throw fail(`has data_offsets [${begin}, ${end}] in the wrong order`);
  if (end > dataBytes) {
    throw fail(`ends at byte ${end} of the data, but the file holds only ${dataBytes} (truncated?)`);
  }
  if (end - begin !== bytes) throw fail(`has ${end - begin} bytes, but ${dtype} ${shown} needs ${bytes}`);
  return { dtype: dtype as HostDtype, shape, begin, end };
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => typeof item === "number");
}

/** The tensors must tile the data exactly: an overlap or a hole could hide other content in the file. */
function checkCoverage(
  tensors: Map<string, TensorEntry>,
  fileBytes: number,
  start: number,
  fail: Fail,
): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let cursor = start;
  for (const [name, { begin, end }] of ordered) {
    if (begin < cursor) throw fail(`tensor ${quoted(name)} overlaps the tensor before it`);
    if (begin > cursor) throw fail(`there is a gap of ${begin - cursor} bytes before tensor ${quoted(name)}`);
    cursor = end;
  }
  if (cursor !== fileBytes) throw fail(`${fileBytes - cursor} bytes follow the last tensor`);
}
