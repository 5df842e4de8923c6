import { logChoose, normalQuantile, normalTwoSided } from "../../../core/statistics/distributions.ts";
import { proportionsTest, wilsonInterval } from "../../../core/statistics/significance.ts";

/** Of `count` rated units, how many said yes. */
export interface Rate {
  successes: number;
  count: number;
}

/**
 * Newcombe's interval (1998, method 10) for the difference of two independent rates, b's minus a's: from the Wilson intervals of
 * both. [-1, 1] without data.
 */
export function newcombeInterval(a: Rate, b: Rate, confidence = 0.95): [low: number, high: number] {
  if (a.count === 0 || b.count === 0) return [-1, 1];
  const [p, q] = [a.successes / a.count, b.successes / b.count];
  const [lowA, highA] = wilsonInterval(a.successes, a.count, confidence);
  const [lowB, highB] = wilsonInterval(b.successes, b.count, confidence);
  return [q - p - Math.hypot(q - lowB, highA - p), q - p + Math.hypot(highB - q, p - lowA)];
}

/** Fisher's exact test of two independent rates, two-sided: the probability of all tables no likelier than this one. */
export function fisherTwoSided(a: Rate, b: Rate): number {
  const [successes, count] = [a.successes + b.successes, a.count + b.count];
  const probability = (k: number) =>
    Math.exp(logChoose(a.count, k) + logChoose(b.count, successes - k) - logChoose(count, successes));
  // Tables of the same probability differ by rounding.
  const observed = probability(a.successes) * (1 + 1e-7);
  let sum = 0;
  for (let k = Math.max(0, successes - b.count); k <= Math.min(a.count, successes); k++) {
    const each = probability(k);
    if (each <= observed) sum += each;
  }
  return Math.min(1, sum);
}

export interface FixedResult {
  /** b's rate minus a's. */
  difference: number;
  interval: [low: number, high: number];
  pValue: number;
  /** `fisher` where a cell expects fewer than 5, so that the normal distribution is no good guide. */
  test: "z" | "fisher";
}

/** The verdict on two rates at the end of a trial whose length was fixed before it; null where an arm has no votes. */
export function fixedTest(a: Rate, b: Rate): FixedResult | null {
  if (a.count === 0 || b.count === 0) return null;
  const share = (a.successes + b.successes) / (a.count + b.count);
  const smallest = Math.min(a.count, b.count) * Math.min(share, 1 - share);
  const { difference, pValue } = proportionsTest(a, b);
  const interval = newcombeInterval(a, b);
  return smallest < 5
    ? { difference, interval, pValue: fisherTwoSided(a, b), test: "fisher" }
    : { difference, interval, pValue, test: "z" };
}

/**
 * Votes per arm for which a two-sided test at `alpha` finds the difference between two rates with probability `power` (Fleiss et
 * al. 2003, 4.14, without continuity correction). Infinite for equal rates.
 */
export function requiredPerArm(p: number, q: number, { alpha = 0.05, power = 0.8 } = {}): number {
  const mean = (p + q) / 2;
  const under = normalQuantile(1 - alpha) * Math.sqrt(2 * mean * (1 - mean));
  const besides = normalQuantile(2 * power - 1) * Math.sqrt(p * (1 - p) + q * (1 - q));
  return p === q ? Number.POSITIVE_INFINITY : Math.ceil(((under + besides) / (q - p)) ** 2);
}

/**
 * Whether units were split between two arms as their weights say, by a chi-squared test. When they were not (p < 0.001), something
 * other than chance decided who saw what, and nothing may be concluded. A p-value of 1 without units.
 */
export function sampleRatio(
  [a, b]: readonly [number, number],
  [first, second]: readonly [number, number],
): { pValue: number; ok: boolean } {
  const share = first / (first + second);
  const error = Math.sqrt((a + b) * share * (1 - share));
  const pValue = error === 0 ? 1 : normalTwoSided((a - (a + b) * share) / error);
  return { pValue, ok: pValue >= 0.001 };
}
