import { type DrawSettings, drawToken, keptWeights, settingsRow } from "../../kernels/index.ts";
import { argmax } from "../../models/sampling.ts";
import type { SampledToken, SampleSpec, TokenLogprob } from "./types.ts";

/**
 * The reference sampler: one row of logits to one token id. The processors below mean what those of Hugging Face
 * transformers (generation/logits_process.py) mean and run in the same order: repetition penalty, temperature, top-k,
 * top-p, min-p; the bias and OpenAI's two penalties come before the temperature, as in vLLM. A removed token has the
 * logit -Infinity.
 *
 * The result depends on the row and the spec alone: the random draw is a function of (seed, choice, position), and from the
 * temperature on all is computed in whole numbers (kernels/sampling/draw.ts), as a device does it.
 *
 * @param logits one row of finite numbers or -Infinity, not changed.
 * @throws Error when the row holds NaN or +Infinity, or nothing but -Infinity.
 */
export function sampleRow(logits: Float32Array, spec: SampleSpec): SampledToken {
  const { topLogprobs } = spec;
  const likeliest = checkedArgmax(logits);
  const id = isGreedy(spec) ? likeliest : choose(logits, spec);
  if (topLogprobs === null) return { id, logprob: null, top: [] };
  return score(logits, id, topLogprobs, logits[likeliest]);
}

/** Log probability of `id` and of the `top` likeliest tokens under softmax(logits). @throws Error as `sampleRow` does. */
export function scoreRow(logits: Float32Array, id: number, top: number): TokenLogprob {
  return score(logits, id, top, logits[checkedArgmax(logits)]);
}

/** Whether the sampler takes the highest logit, the lowest id of equals, of any row. */
function isGreedy(spec: SampleSpec): boolean {
  return spec.params.temperature === 0 && isPlain(spec);
}

/** Whether a token is chosen of the logits as they are. */
export function isPlain({ params, banned, constraint }: SampleSpec): boolean {
  return (
    params.logitBias.size === 0 &&
    params.repetitionPenalty === 1 &&
    params.frequencyPenalty === 0 &&
    params.presencePenalty === 0 &&
    constraint === null &&
    (banned === null || banned.size === 0)
  );
}

/** The error of a row that is no distribution. */
export const notFinite = () => new Error("the model returned logits that are not finite");

/** Index of the largest value, the lowest of equals. @throws Error for a row that is no distribution. */
function checkedArgmax(logits: Float32Array): number {
  let best = 0;
  let most = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i];
    if (logit <= most) continue;
    // Negated so that NaN also reaches the throw.
    if (!(logit < Infinity)) throw notFinite();
    best = i;
    most = logit;
  }
  if (most === -Infinity) throw notFinite();
  return best;
}

/** What a device needs of a spec that changes no logits. */
export function drawSettings({ params, position }: SampleSpec): DrawSettings {
  const { temperature, topK, topP, minP, seed, choice } = params;
  return { temperature, topK, topP, minP, seed, choice, position };
}

function choose(logits: Float32Array, spec: SampleSpec): number {
  if (isPlain(spec)) return drawToken(logits, settingsRow(drawSettings(spec)));
  const row = adjustedLogits(logits, spec);
  const likeliest = argmax(row);
  if (row[likeliest] === -Infinity) throw new Error("no token is left that the request allows");
  if (spec.params.temperature === 0) return likeliest;
  return drawToken(new Float32Array(row), settingsRow(drawSettings(spec)));
}

function score(logits: Float32Array, id: number, top: number, max: number): TokenLogprob {
  const normaliser = logSumExp(logits, max);
  const own = logits[id];
  let rank = 1;
  for (let i = 0; i < logits.length; i++) if (logits[i] > own || (logits[i] === own && i < id)) rank++;
  return {
    id,
    logprob: own - normaliser,
    rank,
    top: largest(logits, top).map((other) => [other, logits[other] - normaliser] as const),
  };
}

/** The distribution that `sampleRow` draws from (one-hot when greedy). */
export function probabilities(logits: Float32Array, spec: SampleSpec): Float64Array {
  const row = adjustedLogits(logits, spec);
  if (spec.params.temperature > 0) {
    const { weights, total } = keptWeights(new Float32Array(row), settingsRow(drawSettings(spec)));
    return weights.map((weight) => weight / total);
  }
  const oneHot = new Float64Array(row.length);
  oneHot[argmax(row)] = 1;
  return oneHot;
}

/** The row after bias, penalties and what is not allowed, which also steer a greedy choice. */
function adjustedLogits(logits: Float32Array, spec: SampleSpec): Float64Array {
  const { params, history, promptLength } = spec;
  const row = new Float64Array(logits);
  for (const [id, bias] of params.logitBias) row[id] += bias;
  applyRepetitionPenalty(row, history, params.repetitionPenalty);
  applyOutputPenalties(row, history, promptLength, params.frequencyPenalty, params.presencePenalty);
  if (spec.banned !== null) for (const id of spec.banned) row[id] = -Infinity;
  if (spec.constraint !== null) keepAllowed(row, spec.constraint.allowed(history, promptLength));
  return row;
}

function keepAllowed(row: Float64Array, allowed: Uint32Array): void {
  for (let id = 0; id < row.length; id++) {
    if (((allowed[id >>> 5] >>> (id & 31)) & 1) === 0) row[id] = -Infinity;
  }
}

function applyRepetitionPenalty(row: Float64Array, history: readonly number[], penalty: number): void {
  if (penalty === 1) return;
  for (const id of new Set(history)) row[id] = row[id] < 0 ? row[id] * penalty : row[id] / penalty;
}

/** OpenAI's penalties on generated tokens: `frequency` for each occurrence, `presence` once. */
function applyOutputPenalties(
  row: Float64Array,
  history: readonly number[],
  promptLength: number,
  frequency: number,
  presence: number,
): void {
  if (frequency === 0 && presence === 0) return;
  const seen = new Set<number>();
  for (let i = promptLength; i < history.length; i++) {
    const id = history[i];
    row[id] -= seen.has(id) ? frequency : frequency + presence;
    seen.add(id);
  }
}

function logSumExp(row: Float32Array, max: number): number {
  let total = 0;
  for (let i = 0; i < row.length; i++) total += Math.exp(row[i] - max);
  return max + Math.log(total);
}

/** Indices of the `count` largest values, largest first, the lower index first among equals. */
function largest(row: Float32Array, count: number): number[] {
  const best: number[] = [];
  if (count === 0) return best;
  for (let i = 0; i < row.length; i++) {
    if (best.length === count && row[i] <= row[best[count - 1]]) continue;
    let at = best.length;
    while (at > 0 && row[i] > row[best[at - 1]]) at--;
    best.splice(at, 0, i);
    best.length = Math.min(best.length, count);
  }
  return best;
}
