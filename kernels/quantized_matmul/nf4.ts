import { dynamicMap, quantizeBlocks } from "../include/blockwise.ts";

/**
 * NF4 with double quantization (Dettmers et al. 2023, QLoRA), as bitsandbytes defines it: a weight is one of 16 quantiles of
 * the normal distribution times the largest magnitude of its block of 64 in row-major order. Those magnitudes are 8-bit
 * numbers in blocks of 256, after their mean is taken off. 4.127 bits a weight.
 */
export const nf4Map = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);
const blockSize = 64;
const nestedSize = 256;

/** What bitsandbytes stores of a matrix. */
export interface Nf4 {
  /** Two weights a byte, the first in the high four bits. */
  packed: Uint8Array;
  /** Of each block of 64 weights, in 8 bits. */
  absmaxCodes: Uint8Array;
  /** Of each block of 256 magnitudes, after `offset` was taken off. */
  nestedAbsmax: Float32Array;
  /** The mean of the magnitudes. */
  offset: number;
}

/** The sum in f32, in numpy's order, on which the last bit of the mean depends. */
function pairwiseSum(values: Float32Array): number {
  const { length } = values;
  const add = (a: number, b: number) => Math.fround(a + b);
  if (length < 8) return values.reduce(add, 0);
  if (length > 128) {
    const half = (length >> 1) - ((length >> 1) % 8);
    return add(pairwiseSum(values.subarray(0, half)), pairwiseSum(values.subarray(half)));
  }
  const lanes = values.slice(0, 8);
  const whole = length - (length % 8);
  for (let i = 8; i < whole; i++) lanes[i % 8] += values[i];
  const [a, b, c, d, e, f, g, h] = lanes as unknown as number[];
  const sum = add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)));
  return values.subarray(whole).reduce(add, sum);
}

/** Quantizes a matrix, row by row. */
export function quantizeNf4(values: ArrayLike<number>): Nf4 {
  const { codes, absmax } = quantizeBlocks(values, nf4Map, blockSize);
  const packed = new Uint8Array(Math.ceil(codes.length / 2));
  // The code of 0 fills up the last byte.
  for (let i = 0; i < packed.length; i++) packed[i] = (codes[2 * i] << 4) | (codes[2 * i + 1] ?? 7);
  const offset = Math.fround(pairwiseSum(absmax) / absmax.length);
  const shifted = absmax.map((value) => value - offset);
  const nested = quantizeBlocks(shifted, dynamicMap(true), nestedSize);
  return { packed, absmaxCodes: nested.codes, nestedAbsmax: nested.absmax, offset };
}

/** Where the parts of a matrix of `size` weights begin in its words, after the weights themselves. */
function layoutOf(size: number) {
  const blocks = Math.ceil(size / blockSize);
  const absmax = Math.ceil(size / 8);
  const tables = absmax + Math.ceil(blocks / 4);
  return { absmax, tables, end: tables + 16 + 256 + 1 + Math.ceil(blocks / nestedSize) };
}

/** How many words `toWords` makes of `size` weights. */
export const wordsOf = (size: number): number => layoutOf(size).end;

/**
 * One u32 tensor for kernels: weights, eight a word; codes of magnitudes, four a word; then as bits of f32 the map of weights
 * (16), that of magnitudes (256), the offset and the magnitudes' own.
 */
export function toWords({ packed, absmaxCodes, nestedAbsmax, offset }: Nf4, size: number): Uint32Array {
  const { absmax, tables, end } = layoutOf(size);
  const words = new Uint32Array(end);
  const bytes = new Uint8Array(words.buffer);
  bytes.set(packed);
  bytes.set(absmaxCodes, 4 * absmax);
  new Float32Array(words.buffer, 4 * tables).set([...nf4Map, ...dynamicMap(true), offset, ...nestedAbsmax]);
  return words;
}

/** The weights of words, each rounded to f32 as it is computed. */
export function dequantizeNf4(given: ArrayLike<number>, size: number): Float32Array {
  const words = Uint32Array.from(given);
  const bytes = new Uint8Array(words.buffer);
  const { absmax, tables } = layoutOf(size);
  const table = new Float32Array(words.buffer, 4 * tables);
  return Float32Array.from({ length: size }, (_, i) => {
    const block = Math.floor(i / blockSize);
    const nested = table[273 + Math.floor(block / nestedSize)];
    const magnitude = Math.fround(Math.fround(table[16 + bytes[4 * absmax + block]] * nested) + table[272]);
    return table[(bytes[i >> 1] >> (i % 2 === 0 ? 4 : 0)) & 15] * magnitude;
  });
}
