import { usageError } from "../../core/errors.ts";
import { philox4x32, seedWords, toUnit } from "../../core/random.ts";

/** A request of the load: what is read and how much is written. */
export interface LoadRequest {
  readonly prompt: string | readonly number[];
  readonly maxTokens: number;
}

/** Numbers in [0, 1) that a seed determines. */
export function uniforms(seed: number): () => number {
  const key = seedWords(seed);
  let counter = 0;
  return () => toUnit(philox4x32(key, [counter++, 0, 0, 0])[0]);
}

/** A standard normal number (Box and Muller 1958). */
const normal = (uniform: () => number) =>
  Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());

/** Draws a whole number, at least 1. */
export type Lengths = (uniform: () => number) => number;

/**
 * `128` or `fixed:128`, `uniform:16-128` (both ends included), or `lognormal:128,0.5` (median, and sigma of the logarithm).
 * @throws KilnError for anything else.
 */
export function lengths(text: string): Lengths {
  const [, fixed] = /^(?:fixed:)?(\d+)$/.exec(text) ?? [];
  if (Number(fixed) > 0) return () => Number(fixed);
  const [, low, high] = /^uniform:(\d+)-(\d+)$/.exec(text) ?? [];
  if (Number(low) > 0 && Number(high) >= Number(low))
    return (uniform) => Number(low) + Math.floor(uniform() * (Number(high) - Number(low) + 1));
  const [, median, sigma] = /^lognormal:(\d+),(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (Number(median) > 0)
    return (uniform) => Math.max(1, Math.round(Number(median) * Math.exp(Number(sigma) * normal(uniform))));
  throw usageError(
    `${text} is no distribution of lengths: give 128, uniform:16-128 or lognormal:128,0.5 (median and sigma)`,
  );
}

export interface Workload {
  readonly prompt: Lengths;
  readonly output: Lengths;
  /** Texts to draw from; null: random tokens. */
  readonly dataset: readonly string[] | null;
  /** Random prompts are ids below this, or null for words. */
  readonly vocab: number | null;
  readonly seed: number;
}

/** The same requests for the same seed, whatever the load. */
export function requestsOf({ prompt, output, dataset, vocab, seed }: Workload, count: number): LoadRequest[] {
  const uniform = uniforms(seed);
  const below = (n: number) => Math.floor(uniform() * n);
  return Array.from({ length: count }, () => {
    const maxTokens = output(uniform);
    if (dataset !== null) return { prompt: dataset[below(dataset.length)], maxTokens };
    const size = prompt(uniform);
    // The first few ids are special in most vocabularies.
    if (vocab !== null)
      return { prompt: Array.from({ length: size }, () => 4 + below(vocab - 4)), maxTokens };
    return { prompt: Array.from({ length: size }, () => WORDS[below(WORDS.length)]).join(" "), maxTokens };
  });
}

const WORDS = "the a cat dog sun tree was is saw went big red old to in and she he it they".split(" ");

/** When requests arrive, in milliseconds: a Poisson process of `rate` a second. */
export function arrivals(rate: number, count: number, seed: number): number[] {
  const uniform = uniforms(seed + 1);
  let at = 0;
  return Array.from({ length: count }, () => {
    at += (-Math.log(1 - uniform()) / rate) * 1000;
    return at;
  });
}
