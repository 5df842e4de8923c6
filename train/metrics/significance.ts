import { KilnError } from "../../core/errors.ts";
import { philox4x32, seedWords } from "../../core/random.ts";
import { binomialTwoSided, normalQuantile, normalTwoSided, studentTwoSided } from "./distributions.ts";

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

/** McNemar's test (1947) of whether one of two systems is right more often on the same items. */
export class McNemar {
  #bothRight = 0;
  #onlyA = 0;
  #onlyB = 0;
  #bothWrong = 0;

  /** Adds one item. */
  add(aIsRight: boolean, bIsRight: boolean): void {
    if (aIsRight && bIsRight) this.#bothRight++;
    else if (aIsRight) this.#onlyA++;
    else if (bIsRight) this.#onlyB++;
    else this.#bothWrong++;
  }

  /**
   * The counts and two two-sided p-values: `exact` uses the binomial distribution; `corrected` uses the chi-squared
   * distribution with Edwards' continuity correction and needs 25 or more items on which the systems differ.
   */
  value() {
    const [onlyA, onlyB] = [this.#onlyA, this.#onlyB];
    const differ = onlyA + onlyB;
    const chiSquared = differ === 0 ? 0 : Math.max(0, Math.abs(onlyA - onlyB) - 1) ** 2 / differ;
    return {
      bothRight: this.#bothRight,
      onlyA,
      onlyB,
      bothWrong: this.#bothWrong,
      exact: binomialTwoSided(Math.min(onlyA, onlyB), differ),
      chiSquared,
      corrected: normalTwoSided(Math.sqrt(chiSquared)),
    };
  }
}

/** Wilson's score interval (1927) for the rate `successes / count`. [0, 1] if `count` is 0. */
export function wilsonInterval(successes: number, count: number, confidence = 0.95): [number, number] {
  if (count === 0) return [0, 1];
  const z = normalQuantile(confidence);
  const rate = successes / count;
  const centre = rate + (z * z) / (2 * count);
  const half = z * Math.sqrt((rate * (1 - rate)) / count + (z * z) / (4 * count * count));
  const scale = 1 + (z * z) / count;
  return [Math.max(0, (centre - half) / scale), Math.min(1, (centre + half) / scale)];
}

/**
 * Two-sided z-test of two independent rates with pooled variance, for samples that share no items. `z` is positive if b's
 * rate is higher.
 */
export function proportionsTest(
  a: { successes: number; count: number },
  b: { successes: number; count: number },
): { difference: number; z: number; pValue: number } {
  const difference = b.successes / b.count - a.successes / a.count;
  const pooled = (a.successes + b.successes) / (a.count + b.count);
  const error = Math.sqrt(pooled * (1 - pooled) * (1 / a.count + 1 / b.count));
  const z = error === 0 ? 0 : difference / error;
  return { difference, z, pValue: normalTwoSided(z) };
}

/** Running mean and variance (Welford 1962). */
export class Moments {
  count = 0;
  mean = 0;
  #squares = 0;

  add(value: number): void {
    this.count++;
    const before = value - this.mean;
    this.mean += before / this.count;
    this.#squares += before * (value - this.mean);
  }

  /** Sample variance (divided by count - 1). NaN for fewer than two values. */
  get variance(): number {
    return this.count < 2 ? Number.NaN : this.#squares / (this.count - 1);
  }
}

/**
 * Welch's two-sided t-test (1947) of two independent samples with unequal variances. `t` is positive if b's mean is higher.
 * For samples of fewer than two values, everything but the difference is NaN.
 */
export function welchTest(
  a: Moments,
  b: Moments,
): { difference: number; t: number; df: number; pValue: number } {
  const difference = b.mean - a.mean;
  const errors = [a, b].map(({ variance, count }) => variance / count);
  const error = errors[0] + errors[1];
  // Two constant samples are either equal or certainly different.
  if (error === 0) {
    const t = difference === 0 ? 0 : Math.sign(difference) * Number.POSITIVE_INFINITY;
    return { difference, t, df: a.count + b.count - 2, pValue: difference === 0 ? 1 : 0 };
  }
  const t = difference / Math.sqrt(error);
  const df = error ** 2 / (errors[0] ** 2 / (a.count - 1) + errors[1] ** 2 / (b.count - 1));
  return { difference, t, df, pValue: studentTwoSided(t, df) };
}
