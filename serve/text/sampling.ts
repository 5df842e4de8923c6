import { seedWords } from "../../core/random.ts";
import type { SamplingParams } from "../engine/types.ts";
import { badRequest } from "../errors.ts";

/** Sampling fields of a request as the client names them; null and absent both mean the default. */
export interface RawSamplingParams {
  temperature?: number | null;
  top_k?: number | null;
  top_p?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  logit_bias?: Record<string, number> | null;
  /** A 64-bit integer; past 2^53 only a bigint says which. */
  seed?: number | bigint | null;
}

/** Allowed values: [smallest, largest, default]. */
const RANGES = {
  temperature: [0, 2, 1],
  top_p: [0, 1, 1],
  min_p: [0, 1, 0],
  repetition_penalty: [0, 10, 1],
  frequency_penalty: [-2, 2, 0],
  presence_penalty: [-2, 2, 0],
} as const;

/** Below this temperature the likeliest token is taken. */
const GREEDY_BELOW = 1e-5;

/**
 * Checks ranges and fills in defaults.
 * @param freshSeed called when the request has no seed.
 * @throws ServeError 400 naming the field.
 */
export function resolveSampling(
  raw: RawSamplingParams,
  vocabSize: number,
  freshSeed: () => readonly [number, number],
): Omit<SamplingParams, "choice"> {
  const temperature = ranged(raw, "temperature");
  const topP = ranged(raw, "top_p");
  if (topP === 0) throw badRequest("top_p", "top_p must be greater than 0 and at most 1");
  const repetitionPenalty = ranged(raw, "repetition_penalty");
  if (repetitionPenalty === 0)
    throw badRequest("repetition_penalty", "repetition_penalty must be greater than 0");
  const topK = raw.top_k ?? 0;
  if (!Number.isInteger(topK) || topK < -1) {
    throw badRequest("top_k", "top_k must be an integer; -1 and 0 turn it off");
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
    seed: raw.seed == null ? freshSeed() : seedWords(checkSeed(raw.seed)),
  };
}

function ranged(raw: RawSamplingParams, name: keyof typeof RANGES): number {
  const [low, high, byDefault] = RANGES[name];
  const value = raw[name] ?? byDefault;
  if (!(value >= low && value <= high))
    throw badRequest(name, `${name} must be between ${low} and ${high}, got ${value}`);
  return value;
}

function resolveBias(bias: Record<string, number>, vocabSize: number): Map<number, number> {
  const resolved = new Map<number, number>();
  for (const [key, value] of Object.entries(bias)) {
    const id = /^\d+$/.test(key) ? Number(key) : Number.NaN;
    if (!(id < vocabSize)) {
      throw badRequest(`logit_bias.${key}`, `logit_bias keys must be token ids from 0 to ${vocabSize - 1}`);
    }
    if (!(value >= -100 && value <= 100)) {
      throw badRequest(`logit_bias.${key}`, `logit_bias values must be between -100 and 100, got ${value}`);
    }
    resolved.set(id, value);
  }
  return resolved;
}

function checkSeed(seed: number | bigint): bigint {
  const exact = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(seed) : null;
  if (exact === null || BigInt.asIntN(64, exact) !== exact) {
    throw badRequest("seed", "seed must be a 64-bit integer, past 2^53 with all its digits");
  }
  return exact;
}

/** What is wrong with a prompt in which the tokenizer found an id that the model has no row for. */
export function beyondVocabulary(id: number, { vocabSize }: { vocabSize: number }): string {
  return (
    `the prompt holds token ${id}, which the tokenizer has but the model has not (its vocab_size is ${vocabSize}); ` +
    "leave that token out, or use the tokenizer that belongs to the model"
  );
}
