import { philox4x32, seedWords } from "../core/random.ts";
import type { Shape } from "../core/shape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { mul, randomNormal, randomUniform, sub } from "../kernels/index.ts";
import type { Parameter } from "./module.ts";

let seedOfLayers = seedWords(0);
let drawn = 0;

/**
 * Sets the seed from which constructors of layers draw, 0 at first: initial values depend on it, on the number of draws since
 * it was set, and on nothing else. `CausalLM.init` has a seed of its own.
 */
export function manualSeed(seed: number | bigint): void {
  seedOfLayers = seedWords(seed);
  drawn = 0;
}

/** A key u32 [4] of its own for each call; its last word is 0 and free for counting. */
export const nextKey = () => tensor([...seedOfLayers, drawn++, 0], [4], "u32");

/** Draws from [-bound, bound), for `Parameter.make`. */
export const drawUniform = (bound: number) => (shape: Shape) =>
  mul(sub(randomUniform(shape, nextKey()), 0.5), 2 * bound);

/** Draws normal values of mean 0, for `Parameter.make`. */
export const drawNormal =
  (std: number) =>
  (shape: Shape): Tensor =>
    mul(randomNormal(shape, nextKey()), std);

/**
 * Fills a parameter with normal values of mean 0 and the given standard deviation. The value at an index depends on
 * (seed, name, index) alone, so that a model starts the same on every adapter and whatever other layers it has.
 */
export function normalInit(parameter: Parameter, std: number, seed: number, name: string): void {
  parameter.write(normalValues(parameter.size, seed, name).map((v) => v * std));
}

export function constantInit(parameter: Parameter, value: number): void {
  parameter.write(new Float32Array(parameter.size).fill(value));
}

/** Fills a parameter with values uniform in [-bound, bound), which depend on what those of `normalInit` do. */
export function uniformInit(parameter: Parameter, bound: number, seed: number, name: string): void {
  const values = new Float32Array(parameter.size);
  for (const [i, bits] of randomWords(values.length, seed, name))
    values.set(Array.from(bits, (word) => bound * (word / 2147483648 - 1)).slice(0, values.length - i), i);
  parameter.write(values);
}

/** Standard normal values by Box and Muller from counter-based uniforms. */
export function normalValues(count: number, seed: number, name: string): Float32Array {
  const out = new Float32Array(count);
  for (const [i, bits] of randomWords(count, seed, name)) {
    for (let k = 0; k < 4 && i + k < count; k += 2) {
      const radius = Math.sqrt(-2 * Math.log((bits[k] + 1) / 4294967297));
      const angle = 2 * Math.PI * (bits[k + 1] / 4294967296);
      out[i + k] = radius * Math.cos(angle);
      if (i + k + 1 < count) out[i + k + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}

/** Four random words for every four values, with the index of the first. */
function* randomWords(count: number, seed: number, name: string) {
  const stream = hash(name);
  for (let i = 0; i < count; i += 4) yield [i, philox4x32([seed >>> 0, stream], [i >>> 2, 0, 0, 0])] as const;
}

/** FNV-1a of a name. */
function hash(name: string): number {
  let state = 2166136261;
  for (const c of name) state = Math.imul(state ^ c.codePointAt(0)!, 16777619);
  return state >>> 0;
}
