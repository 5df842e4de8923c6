import { binomialTwoSided, normalQuantile, normalTwoSided, studentTwoSided } from "./distributions.ts";

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
