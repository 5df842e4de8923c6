import { freshSeed, seedWords } from "../../core/random.ts";
import { invalid } from "../engine/errors.ts";
import type { Sampling } from "../engine/types.ts";
import type { SamplingParams } from "./request.ts";

/** Allowed values: [smallest, largest, default]. */
const RANGES = {
  temperature: [0, 2, 1],
  top_p: [0, 1, 1],
  min_p: [0, 1, 0],
  repetition_penalty: [0, 10, 1],
  frequency_penalty: [-2, 2, 0],
  presence_penalty: [-2, 2, 0],
} as const;

/** Lower temperatures count as 0. */
const GREEDY_BELOW = 1e-5;

/**
 * Checks the sampling fields of a request and fills in defaults.
 * @param drawSeed called when the request has no seed.
 * @throws RequestError naming the field.
 */
export function resolveSampling(
  raw: SamplingParams,
  vocabSize: number,
  drawSeed = freshSeed,
): Omit<Sampling, "choice"> {
  const temperature = ranged(raw, "temperature");
  const topP = ranged(raw, "top_p");
  if (topP === 0) throw invalid("top_p", "top_p must be greater than 0 and at most 1");
  const repetitionPenalty = ranged(raw, "repetition_penalty");
  if (repetitionPenalty === 0)
    throw invalid("repetition_penalty", "repetition_penalty must be greater than 0");
  const topK = raw.top_k ?? 0;
  if (!Number.isInteger(topK) || topK < -1) {
    throw invalid("top_k", "top_k must be an integer; -1 and 0 turn it off");
  }
  return {
    temperature: temperature < GREEDY_BELOW ? 0 : temperature,
    topK: topK <= 0 || topK >= vocabSize ? 0 : topK,
    topP,
    minP: ranged(raw, "min_p"),
    repetitionPenalty,
    frequencyPenalty: ranged(raw, "frequency_penalty"),
    presencePenalty: ranged(raw, "presence_penalty"),
    logitBias: resolveBias(raw.logit_bias ?? {}, vocabSize),
    seed: raw.seed == null ? drawSeed() : seedWords(checkSeed(raw.seed)),
  };
}

function ranged(raw: SamplingParams, name: keyof typeof RANGES): number {
  const [low, high, byDefault] = RANGES[name];
  const value = raw[name] ?? byDefault;
  if (!(value >= low && value <= high))
    throw invalid(name, `${name} must be between ${low} and ${high}, got ${value}`);
  return value;
}

function resolveBias(bias: Record<string, number>, vocabSize: number): Map<number, number> {
  const resolved = new Map<number, number>();
  for (const [key, value] of Object.entries(bias)) {
    const id = /^\d+$/.test(key) ? Number(key) : Number.NaN;
    if (!(id < vocabSize)) {
      throw invalid(`logit_bias.${key}`, `logit_bias keys must be token ids from 0 to ${vocabSize - 1}`);
    }
    if (!(value >= -100 && value <= 100)) {
      throw invalid(`logit_bias.${key}`, `logit_bias values must be between -100 and 100, got ${value}`);
    }
    resolved.set(id, value);
  }
  return resolved;
}

function checkSeed(seed: number | bigint): bigint {
  const exact = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(seed) : null;
  if (exact === null || BigInt.asIntN(64, exact) !== exact) {
    throw invalid("seed", "seed must be a 64-bit integer, past 2^53 with all its digits");
  }
  return exact;
}
