import { philox4x32, toUnit } from "../../core/random.ts";
import type { SampledToken, SampleSpec, Sampling, TokenLogprob } from "./types.ts";

/**
 * The reference sampler: one row of logits to one token id. The processors below mean what those of Hugging Face
 * transformers (generation/logits_process.py) mean and run in the same order: repetition penalty, temperature, top-k,
 * top-p, min-p; the bias and OpenAI's two penalties come before the temperature, as in vLLM. A removed token has the
 * logit -Infinity.
 *
 * The result depends on the row and the spec alone: the random draw is a function of (seed, choice, position).
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
export function isGreedy({ params, banned }: SampleSpec): boolean {
  return (
    params.temperature === 0 &&
    params.logitBias.size === 0 &&
    params.repetitionPenalty === 1 &&
    params.frequencyPenalty === 0 &&
    params.presencePenalty === 0 &&
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

function choose(logits: Float32Array, spec: SampleSpec): number {
  const { params } = spec;
  const row = adjustedLogits(logits, spec);
  if (params.temperature === 0) return argmax(row);
  return draw(warp(row, params), uniform(params.seed, params.choice, spec.position));
}

function score(logits: Float32Array, id: number, top: number, max: number): TokenLogprob {
  const normaliser = logSumExp(logits, max);
  return {
    id,
    logprob: logits[id] - normaliser,
    top: largest(logits, top).map((other) => [other, logits[other] - normaliser] as const),
  };
}

/** The distribution that `sampleRow` draws from (one-hot when greedy), in float64. */
export function probabilities(logits: Float32Array, spec: SampleSpec): Float64Array {
  const row = adjustedLogits(logits, spec);
  if (spec.params.temperature > 0) return softmax(warp(row, spec.params));
  const oneHot = new Float64Array(row.length);
  oneHot[argmax(row)] = 1;
  return oneHot;
}

/** The row after bias, banned tokens and penalties, which also steer a greedy choice. */
function adjustedLogits(logits: Float32Array, spec: SampleSpec): Float64Array {
  const { params, history, promptLength } = spec;
  const row = new Float64Array(logits);
  for (const [id, bias] of params.logitBias) row[id] += bias;
  applyRepetitionPenalty(row, history, params.repetitionPenalty);
  applyOutputPenalties(row, history, promptLength, params.frequencyPenalty, params.presencePenalty);
  if (spec.banned !== null) for (const id of spec.banned) row[id] = -Infinity;
  return row;
}

function warp(row: Float64Array, params: Sampling): Float64Array {
  applyTemperature(row, params.temperature);
  applyTopK(row, params.topK);
  applyTopP(row, params.topP);
  applyMinP(row, params.minP);
  return row;
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

function applyTemperature(row: Float64Array, temperature: number): void {
  if (temperature === 1) return;
  for (let i = 0; i < row.length; i++) row[i] /= temperature;
}

/** Keeps the k largest; ties with the k-th all stay. */
export function applyTopK(row: Float64Array, k: number): void {
  if (k === 0 || k >= row.length) return;
  const threshold = kthLargest(row, k);
  for (let i = 0; i < row.length; i++) if (row[i] < threshold) row[i] = -Infinity;
}

/** The k-th largest value, by a min-heap of the k largest so far: k is small beside a vocabulary. */
function kthLargest(row: Float64Array, k: number): number {
  const heap = row.slice(0, k).sort();
  for (let i = k; i < row.length; i++) {
    const value = row[i];
    if (!(value > heap[0])) continue;
    let at = 0;
    for (let child = 1; child < k; child = 2 * at + 1) {
      if (child + 1 < k && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = value;
  }
  return heap[0];
}

/**
 * Removes the least likely tokens whose probabilities together do not exceed 1 - p; the likeliest always stays, and of
 * equal ones the lower id.
 */
function applyTopP(row: Float64Array, p: number): void {
  if (p >= 1) return;
  const probs = softmax(row);
  // Tokens below this need no sorting: even all of them together are within 1 - p.
  const tail = (1 - p) / row.length;
  let mass = 0;
  const sorted: number[] = [];
  for (let i = 0; i < row.length; i++) {
    if (probs[i] > tail) sorted.push(i);
    else {
      mass += probs[i];
      row[i] = -Infinity;
    }
  }
  sorted.sort((a, b) => probs[a] - probs[b] || b - a);
  for (let i = 0; i + 1 < sorted.length; i++) {
    mass += probs[sorted[i]];
    if (mass > 1 - p) return;
    row[sorted[i]] = -Infinity;
  }
}

/** Removes tokens less than `minP` times as likely as the likeliest (Nguyen et al. 2024). */
function applyMinP(row: Float64Array, minP: number): void {
  if (minP === 0) return;
  const threshold = row[argmax(row)] + Math.log(minP);
  for (let i = 0; i < row.length; i++) if (row[i] < threshold) row[i] = -Infinity;
}

/** Index of the largest value; the lowest of equal ones. */
export function argmax(row: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
  return best;
}

export function softmax(row: ArrayLike<number>): Float64Array {
  const { weights: probs, total } = exponentials(row);
  for (let i = 0; i < probs.length; i++) probs[i] /= total;
  return probs;
}

/** exp(x - highest) of each, and their sum. */
function exponentials(row: ArrayLike<number>): { weights: Float64Array; total: number } {
  const max = row[argmax(row)];
  const weights = new Float64Array(row.length);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    // Skips removed tokens, which may be nearly all.
    if (row[i] === -Infinity) continue;
    weights[i] = Math.exp(row[i] - max);
    total += weights[i];
  }
  return { weights, total };
}

/**
 * A uniform number in [0, 1), a function of (seed, choice, position) alone: a token does not depend on what else was
 * sampled before or beside it, and a sequence that is computed again draws the same.
 */
export function uniform(seed: readonly [number, number], choice: number, position: number): number {
  return toUnit(philox4x32(seed, [position, choice, 0, 0])[0]);
}

/** The first id, in ascending order, at which the cumulative probability exceeds `u` of [0, 1). */
function draw(row: Float64Array, u: number): number {
  const { weights, total } = exponentials(row);
  let cumulative = 0;
  let last = 0;
  for (let i = 0; i < weights.length; i++) {
    if (weights[i] === 0) continue;
    const probability = weights[i] / total;
    if (probability === 0) continue;
    cumulative += probability;
    last = i;
    if (cumulative > u) return i;
  }
  return last;
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
