import { philox4x32 } from "../../core/random.ts";

/*
 * Sampling in whole numbers. Sums of them are the same in any order and on any device, so host and device draw the same
 * token of the same logits, always. From a logit to its weight:
 *
 *   fixed    the logit with as many bits after the point as keep the row's highest below 2^30, at most 23
 *   distance from the highest logit, times log2(e) / temperature (a 25-bit number and a power of two), in 2^-24
 *   weight   2^27 * 2^-distance, by a polynomial of degree 6 whose relative error is below 1e-7, rounded down
 *
 * Tokens less than 2^-27 as likely as the likeliest have no weight. Of the weights are kept those of the top-k (all that
 * equal the k-th), of these the smallest set of highest logits (lower ids first among equals) whose sum reaches top-p of
 * theirs, and of these all of at least min-p times the highest. The token is the first, by id, at which the sum of kept
 * weights exceeds a share of their total: the first word of Philox for (position, choice) under the seed.
 */

/** How a token is drawn from a row of logits; meanings and order are those of transformers' processors. */
export interface DrawSettings {
  /** 0 takes the highest logit, the lowest id of equals. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  /** 1 keeps all. */
  readonly topP: number;
  /** 0 keeps all. */
  readonly minP: number;
  readonly seed: readonly [number, number];
  readonly choice: number;
  readonly position: number;
}

/** Words of a row of settings. */
export const SETTINGS_WIDTH = 12;

/** Rows of at least this many logits have sums that the device cannot hold. */
export const MOST_DRAWN = 2 ** 18;

const [MULTIPLIER, EXPONENT, TOP_K, TOP_P, MIN_WEIGHT, SEED] = [0, 1, 2, 3, 4, 5];
/** The weight of the highest logit. */
const HIGHEST = 2 ** 27;
const LARGEST_FIXED = 2 ** 30;
/** 2^26 * 2^-f = c0 - f (c1 - f (c2 - …)) for f of [0, 1). */
const COEFFICIENTS = [67108864, 46516319, 16121300, 3724490, 644046, 86680, 7712];

/** Settings as the 32-bit words, signed, that host and device compute with. */
export function settingsRow(settings: DrawSettings): number[] {
  const { temperature, topK, topP, minP, seed, choice, position } = settings;
  const factor = temperature === 0 ? 0 : Math.LOG2E / temperature;
  const exponent = factor === 0 ? 0 : Math.floor(Math.log2(factor)) - 24;
  return [
    Math.min(Math.round(factor * 2 ** -exponent), 2 ** 25 - 1),
    24 + exponent,
    topK,
    topP >= 1 ? 0 : Math.min(Math.max(Math.round(topP * 2 ** 32), 1), 2 ** 32 - 1) | 0,
    Math.min(Math.ceil(minP * HIGHEST), HIGHEST),
    ...[seed[0] | 0, seed[1] | 0, choice | 0, position | 0],
    ...[0, 0, 0],
  ];
}

/**
 * The id that is drawn from a row of f32 logits, or -1 where they are no distribution: NaN or +Infinity among them, or nothing
 * but -Infinity.
 * @param settings a row of `settingsRow`.
 */
export function drawToken(logits: ArrayLike<number>, settings: ArrayLike<number>): number {
  const highest = highestAt(logits);
  if (highest < 0 || settings[MULTIPLIER] === 0) return highest;
  const { weights, total } = keptWeights(logits, settings);
  const [seed, high, choice, position] = Array.from({ length: 4 }, (_, i) => settings[SEED + i] >>> 0);
  const [word] = philox4x32([seed, high], [position, choice, 0, 0]);
  const goal = share(total, word);
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    sum += weights[i];
    if (sum > goal) return i;
  }
  throw new Error("the weights sum to less than their total");
}

/** The whole weights of a row's tokens, 0 for those that are never drawn, and their sum. The row must be a distribution. */
export function keptWeights(
  logits: ArrayLike<number>,
  settings: ArrayLike<number>,
): { weights: Float64Array; total: number } {
  const weights = new Float64Array(logits.length);
  const highest = highestAt(logits);
  if (settings[MULTIPLIER] === 0) {
    weights[highest] = HIGHEST;
    return { weights, total: HIGHEST };
  }
  weigh(logits, logits[highest], settings, weights);
  const k = settings[TOP_K];
  if (k > 0 && k < logits.length) {
    const least = kthLargest(logits, k);
    for (let i = 0; i < weights.length; i++) if (logits[i] < least) weights[i] = 0;
  }
  if (settings[TOP_P] !== 0) keepMass(logits, weights, settings[TOP_P] >>> 0);
  for (let i = 0; i < weights.length; i++) if (weights[i] < settings[MIN_WEIGHT]) weights[i] = 0;
  return { weights, total: sumOf(weights) };
}

/** The first index of the highest logit, or -1 for a row that is no distribution. */
function highestAt(logits: ArrayLike<number>): number {
  let at = -1;
  let most = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i];
    if (logit <= most) continue;
    // Negated so that NaN also ends here.
    if (!(logit < Infinity)) return -1;
    at = i;
    most = logit;
  }
  return at;
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

function weigh(
  logits: ArrayLike<number>,
  most: number,
  settings: ArrayLike<number>,
  weights: Float64Array,
): void {
  float[0] = most;
  const point = Math.min(23, 29 - (((bits[0] >>> 23) & 0xff) - 127));
  const scale = 2 ** point;
  const fixed = (x: number) => Math.max(Math.trunc(x * scale), -LARGEST_FIXED);
  const top = fixed(most);
  // Products of distances that count stay below 2^53 and are exact; longer ones are rounded, and still too long.
  const factor = settings[MULTIPLIER] * 2 ** (settings[EXPONENT] - point);
  const [c0, c1, c2, c3, c4, c5, c6] = COEFFICIENTS;
  const unit = 2 ** -24;
  for (let i = 0; i < weights.length; i++) {
    const logit = logits[i];
    const distance = Math.floor((top - fixed(logit)) * factor);
    if (distance >= 28 * 2 ** 24 || logit === -Infinity) continue;
    const f = (distance & 0xffffff) * unit;
    let r = c5 - Math.floor(c6 * f);
    r = c4 - Math.floor(r * f);
    r = c3 - Math.floor(r * f);
    r = c2 - Math.floor(r * f);
    r = c1 - Math.floor(r * f);
    r = c0 - Math.floor(r * f);
    weights[i] = (r * 2) >>> (distance >>> 24);
  }
}

/** Removes what is not in the smallest set of highest logits whose weights reach `share` / 2^32 of all. */
function keepMass(logits: ArrayLike<number>, weights: Float64Array, part: number): void {
  const total = sumOf(weights);
  const limit = share(total, part, true);
  // Even together, those below this are never needed and need no sorting.
  const tail = Math.floor((total - limit) / weights.length);
  const sorted: number[] = [];
  for (let i = 0; i < weights.length; i++) {
    if (weights[i] > tail) sorted.push(i);
    else weights[i] = 0;
  }
  sorted.sort((a, b) => logits[b] - logits[a] || a - b);
  let mass = 0;
  for (const i of sorted) {
    if (mass >= limit) weights[i] = 0;
    else mass += weights[i];
  }
}

/** total * word / 2^32 as a whole number, rounded down or `up`. */
function share(total: number, word: number, up = false): number {
  const product = BigInt(total) * BigInt(word);
  return Number((product + (up ? 0xffffffffn : 0n)) >> 32n);
}

function sumOf(weights: Float64Array): number {
  let total = 0;
  for (let i = 0; i < weights.length; i++) total += weights[i];
  return total;
}

/** The k-th largest value, by a min-heap of the k largest so far: k is small beside a vocabulary. */
export function kthLargest(row: ArrayLike<number>, k: number): number {
  const heap = new Float64Array(k);
  for (let i = 0; i < k; i++) heap[i] = row[i];
  heap.sort();
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
