import { describe, KilnError } from "./errors.ts";

/** Element types. `bool` is stored as u32 0 or 1; `f16` exists only where the adapter has `shader-f16`. */
export type DType = "f32" | "f16" | "i32" | "u32" | "bool";

/** Host arrays that carry tensor values; f16 travels as Float32Array, the reference device reads as Float64Array. */
export type HostArray = Float32Array | Float64Array | Int32Array | Uint32Array;

/** Bytes of one element on the device. */
export function byteSize(dtype: DType): number {
  return dtype === "f16" ? 2 : 4;
}

export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "f16";
}

/** The integers that a dtype holds. */
export const integerRange = {
  i32: { low: -(2 ** 31), high: 2 ** 31 - 1 },
  u32: { low: 0, high: 2 ** 32 - 1 },
} as const;

/** Finite numbers of at least this size round to infinity. */
const overflow = { f32: 2 ** 128 - 2 ** 103, f16: 65520 } as const;

/** Whether a dtype can hold a number: whole and in range for integers, not too large for floats; bool takes anything. */
export function fitsDType(value: number, dtype: DType): boolean {
  if (dtype === "bool") return true;
  if (dtype === "f32" || dtype === "f16")
    return !(Math.abs(value) >= overflow[dtype]) || !Number.isFinite(value);
  const { low, high } = integerRange[dtype];
  return Number.isInteger(value) && value >= low && value <= high;
}

/** Throws unless `dtype` is a dtype. */
export function checkDType(op: string, dtype: DType): void {
  if (!["f32", "f16", "i32", "u32", "bool"].includes(dtype))
    throw new KilnError(`${op}: a dtype is f32, f16, i32, u32 or bool, not ${describe(dtype)}`);
}

/** Throws unless every value is a number that `dtype` can hold. */
export function checkValues(op: string, values: ArrayLike<number>, dtype: DType): void {
  if (dtype === "f32" && values instanceof Float32Array) return;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (typeof value === "number" && fitsDType(value, dtype)) continue;
    const why = typeof value === "number" ? `outside of ${dtype}` : "not a number";
    throw new KilnError(`${op}: value ${i} is ${describe(value)}, ${why}`);
  }
}

/** The WGSL type that a storage buffer of this dtype has. */
export function wgslType(dtype: DType): string {
  return dtype === "bool" ? "u32" : dtype;
}

/** Host bytes of `values` as the device stores them, their own memory where that is the same; f16 rounds to nearest even. */
export function encode(values: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  if (dtype === "f16") {
    const half = new Uint16Array(values.length);
    for (let i = 0; i < half.length; i++) half[i] = toHalf(values[i]);
    return new Uint8Array(half.buffer);
  }
  if (dtype === "f32") return bytesOf(values instanceof Float32Array ? values : Float32Array.from(values));
  if (dtype === "i32") return bytesOf(values instanceof Int32Array ? values : Int32Array.from(values));
  if (dtype === "u32") return bytesOf(values instanceof Uint32Array ? values : Uint32Array.from(values));
  return bytesOf(Uint32Array.from(values, (v) => Number(v !== 0)));
}

/** The values that device bytes encode. */
export function decode(bytes: ArrayBuffer, dtype: DType, length: number): HostArray {
  if (dtype === "f32") return new Float32Array(bytes, 0, length);
  if (dtype === "i32") return new Int32Array(bytes, 0, length);
  if (dtype !== "f16") return new Uint32Array(bytes, 0, length);
  return Float32Array.from(new Uint16Array(bytes, 0, length), fromHalf);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Int32Array | Uint32Array) {
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

const f32Scratch = new Float32Array(1);
const u32Scratch = new Uint32Array(f32Scratch.buffer);

/** IEEE 754 binary16 bits of a number, round to nearest even, overflow to infinity. */
export function toHalf(value: number): number {
  f32Scratch[0] = value;
  const bits = u32Scratch[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | roundToEven(Math.abs(f32Scratch[0]) * 2 ** 24);
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** The number that binary16 bits encode. */
export function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
