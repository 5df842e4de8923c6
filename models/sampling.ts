import { philox4x32, toUnit } from "../core/random.ts";
import { kthLargest } from "../kernels/index.ts";

/** How a token is drawn from a row of logits: what transformers' processors of these names mean, in their order. */
export interface Warping {
  /** Above 0. */
  temperature: number;
  /** 0 keeps all. */
  topK: number;
  topP: number;
  minP: number;
}

/** Divides a row by the temperature and sets the logits of what is not kept to -Infinity, in place. */
export function warp(row: Float64Array, params: Warping): Float64Array {
  applyTemperature(row, params.temperature);
  applyTopK(row, params.topK);
  applyTopP(row, params.topP);
  applyMinP(row, params.minP);
  return row;
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
 * A uniform number in [0, 1), a function of its arguments alone: a token does not depend on what else was sampled before or
 * beside it, and a sequence that is computed again draws the same. Texts that are written over several times count `step`
 * from 1; `word` (0 to 3) chooses one of four independent numbers.
 */
export function uniform(
  seed: readonly [number, number],
  choice: number,
  position: number,
  step = 0,
  word = 0,
): number {
  return toUnit(philox4x32(seed, [position, choice, step, 0])[word]);
}

/** The first id, in ascending order, at which the cumulative probability exceeds `u` of [0, 1). */
export function draw(row: Float64Array, u: number): number {
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
