import { fromHalf, toHalf } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import type { GgufTensor } from "./gguf.ts";
import { type GgufType, tensorTypes } from "./gguf_header.ts";
import { toFloat32 } from "./safetensors.ts";

/**
 * Values as GGUF's tensor types hold them, computed as ggml's reference code does (`quantize_row_q8_0_ref` and
 * `quantize_row_q4_0_ref` in ggml-quants.c), in its f32 arithmetic, so that the bytes are the same.
 */

/** f16 cannot hold a number of this size. */
const HALF_OVERFLOW = 65520;

/**
 * The bytes of `values`, whose rows are whole blocks. Throws a KilnError for a number that the type cannot hold; `name` is
 * what it calls the tensor.
 */
export function encodeBlocks(
  type: Exclude<GgufType, "BF16">,
  values: Float32Array,
  name: string,
): Uint8Array {
  if (type === "F32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const half = (value: number) => {
    if (Math.abs(value) < HALF_OVERFLOW) return toHalf(value);
    throw new KilnError(
      `${name} holds numbers that ${type} cannot (its f16 ends at 65504): export it with --dtype f32`,
      { code: "values_too_large" },
    );
  };
  if (type === "F16") return new Uint8Array(Uint16Array.from(values, half).buffer);
  const { block, bytes } = tensorTypes[type];
  const out = new Uint8Array((values.length / block) * bytes);
  const view = new DataView(out.buffer);
  const write = type === "Q8_0" ? writeQ8 : writeQ4;
  for (let i = 0; i < values.length / block; i++) {
    const scale = write(
      values.subarray(i * block, (i + 1) * block),
      out.subarray(i * bytes + 2, (i + 1) * bytes),
    );
    view.setUint16(i * bytes, half(scale), true);
  }
  return out;
}

/** Writes 32 signed bytes and returns the scale. */
function writeQ8(values: Float32Array, out: Uint8Array): number {
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  const scale = Math.fround(largest / 127);
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  for (let i = 0; i < values.length; i++) {
    const scaled = Math.fround(values[i] * inverse);
    // Half away from zero, as C's roundf.
    out[i] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
  }
  return scale;
}

/** Writes 32 nibbles, the first half of the block in the low ones, and returns the scale. */
function writeQ4(values: Float32Array, out: Uint8Array): number {
  let largest = 0;
  for (const value of values) if (Math.abs(value) > Math.abs(largest)) largest = value;
  const scale = Math.fround(largest / -8);
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  const nibble = (value: number) => Math.min(15, Math.trunc(Math.fround(Math.fround(value * inverse) + 8.5)));
  for (let i = 0; i < 16; i++) out[i] = nibble(values[i]) | (nibble(values[i + 16]) << 4);
  return scale;
}

/** The values of a tensor as f32. */
export function ggufValues({ type, shape, bytes }: GgufTensor): Float32Array {
  if (type === "Q8_0" || type === "Q4_0") return decodeBlocks(type, bytes());
  return toFloat32({ dtype: type, shape: [...shape], bytes: bytes() });
}

function decodeBlocks(type: "Q8_0" | "Q4_0", bytes: Uint8Array): Float32Array {
  const { block, bytes: size } = tensorTypes[type];
  const blocks = bytes.length / size;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float32Array(blocks * block);
  for (let b = 0; b < blocks; b++) {
    const scale = fromHalf(view.getUint16(b * size, true));
    for (let i = 0; i < size - 2; i++) {
      const at = b * size + 2 + i;
      if (type === "Q8_0") out[b * block + i] = view.getInt8(at) * scale;
      else {
        out[b * block + i] = ((bytes[at] & 15) - 8) * scale;
        out[b * block + i + 16] = ((bytes[at] >> 4) - 8) * scale;
      }
    }
  }
  return out;
}
