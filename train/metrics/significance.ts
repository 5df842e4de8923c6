import { KilnError } from "../../core/errors.ts";
import { philox4x32, seedWords } from "../../core/random.ts";

export * from "../../core/statistics/significance.ts";

export interface BootstrapOptions {
  /** The score from the column sums of `count` rows. Default: the mean of the first column. */
  score?: (sums: readonly number[], count: number) => number;
  /** Number of resamples. Default 1000. */
  samples?: number;
  /** Default 0. The same seed gives the same numbers on every machine. */
  seed?: number;
  /** Confidence level of the interval. Default 0.95. */
  confidence?: number;
}

export interface BootstrapResult {
  /** The score of system A on all rows. */
  a: number;
  /** The score of system B on all rows. */
  b: number;
  /** b - a. */
  difference: number;
  /** Percentile interval of the difference. */
  interval: [low: number, high: number];
  /** Two-sided p-value. */
  pValue: number;
}

/**
 * Paired bootstrap of two systems on the same items (Koehn 2004): each resample draws items with replacement and scores both
 * systems on them. A row is what one item adds to the sums behind the score: a single number for a mean, or
 * `Bleu.statistics` for BLEU. For the p-value, the resampled differences are centred on zero (Efron and Tibshirani 1993,
 * 16.4). sacrebleu subtracts the mean of their absolute values instead, which finds too many differences significant.
 * @throws KilnError if the systems have different numbers of rows, or none.
 */
export function pairedBootstrap(
  a: readonly (readonly number[])[],
  b: readonly (readonly number[])[],
  options: BootstrapOptions = {},
): BootstrapResult {
  const { score = (sums, rows) => sums[0] / rows, samples = 1000, seed = 0, confidence = 0.95 } = options;
  if (a.length !== b.length || a.length === 0) {
    throw new KilnError(
      `a paired test needs the same items for both systems, and at least one; got ${a.length} and ${b.length}`,
    );
  }
  const key = seedWords(seed);
  const count = a.length;
  const sums = [a, b].map((rows) => rows[0].map(() => 0));
  const addItem = (item: number) => {
    for (let j = 0; j < a[item].length; j++) {
      sums[0][j] += a[item][j];
      sums[1][j] += b[item][j];
    }
  };
  const differences = Float64Array.from({ length: samples }, (_, sample) => {
    for (const list of sums) list.fill(0);
    for (let i = 0; i < count; i += 4) {
      const words = philox4x32(key, [sample, i, 0, 0]);
      for (let k = 0; k < 4 && i + k < count; k++) addItem(Math.floor((words[k] / 2 ** 32) * count));
    }
    return score(sums[1], count) - score(sums[0], count);
  });
  for (const list of sums) list.fill(0);
  for (let i = 0; i < count; i++) addItem(i);
  const whole = { a: score(sums[0], count), b: score(sums[1], count) };
  const difference = whole.b - whole.a;
  return { ...whole, difference, ...judge(differences, difference, confidence) };
}

/** The interval and the p-value from the differences of the resamples. */
function judge(differences: Float64Array, difference: number, confidence: number) {
  const samples = differences.length;
  const size = Math.abs(difference);
  const beyond = differences.filter((value) => Math.abs(value - difference) >= size).length;
  const sorted = differences.toSorted();
  const cut = Math.floor((samples * (1 - confidence)) / 2);
  const interval: [number, number] = [sorted[cut], sorted[samples - 1 - cut]];
  return { interval, pValue: (beyond + 1) / (samples + 1) };
}
