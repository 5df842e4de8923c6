import { countNgrams, splitWords } from "../../../core/statistics/words.ts";

/** An answer, as far as its quality can be told from it. */
export interface Answered {
  readonly question: string;
  readonly text: string;
  readonly meanLogprob: number | null;
  readonly endedProperly: boolean;
}

/** How much a text repeats itself (the share of its 4-grams that are repeats), and how varied it is (distinct 2-grams over all). */
export function textTraits(text: string): { repetition: number; distinct: number } {
  const words = splitWords(text);
  const share = (n: number) => countNgrams(words, n).size / Math.max(1, words.length - n + 1);
  return { repetition: words.length < 4 ? 0 : 1 - share(4), distinct: words.length < 2 ? 1 : share(2) };
}

/** Of ln(1 + words) of answers, where nothing is measured. */
const LENGTH = { mean: 3.5, deviation: 1 };

function featuresOf({ question, text, meanLogprob, endedProperly }: Answered): number[] {
  const { repetition, distinct } = textTraits(text);
  const words = (of: string) => new Set(of.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? []);
  const asked = words(question);
  const shared = [...words(text)].filter((word) => asked.has(word)).length;
  const z = (Math.log(1 + splitWords(text).length) - LENGTH.mean) / LENGTH.deviation;
  const length = Math.min(9, z * z);
  return [
    1,
    meanLogprob ?? -1.5,
    repetition,
    distinct,
    length,
    Number(endedProperly),
    asked.size === 0 ? 0 : shared / asked.size,
  ];
}

/** Weights of the features, and whether they were fitted on ratings or are a guess. */
export interface QualityModel {
  readonly weights: readonly number[];
  readonly kind: "heuristic" | "fitted";
}

export const HEURISTIC: QualityModel = { weights: [1, 0.8, -4, 0.5, -0.3, 0.7, 0.5], kind: "heuristic" };
/** Ratings below which nothing is fitted. */
const FEWEST_RATINGS = 200;
const RIDGE = 1;
const STEPS = 25;

const logistic = (x: number): number => 1 / (1 + Math.exp(-x));
const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

/** How good an answer probably is, 0 to 1. */
export const qualityOf = (answer: Answered, { weights }: QualityModel = HEURISTIC): number =>
  logistic(dot(featuresOf(answer), weights));

export type Rated = Answered & { readonly good: boolean };

/** Weights by logistic regression with a small penalty (Newton's method); the guess where there are fewer than 200 ratings. */
export function fitQuality(rated: readonly Rated[], fewest = FEWEST_RATINGS): QualityModel {
  if (rated.length < fewest) return HEURISTIC;
  const rows = rated.map((one) => ({ x: featuresOf(one), good: Number(one.good) }));
  let weights = HEURISTIC.weights.map(() => 0);
  for (let step = 0; step < STEPS; step++) {
    const gradient = weights.map((weight, i) => (i === 0 ? 0 : -RIDGE * weight));
    const hessian = weights.map((_, i) => weights.map((_, j) => (i === j ? (i === 0 ? 1e-9 : RIDGE) : 0)));
    for (const { x, good } of rows) {
      const p = logistic(dot(x, weights));
      for (const [i, xi] of x.entries()) {
        gradient[i]! += (good - p) * xi;
        for (const [j, xj] of x.entries()) hessian[i]![j]! += p * (1 - p) * xi * xj;
      }
    }
    const change = solved(hessian, gradient);
    weights = weights.map((weight, i) => weight + change[i]!);
    if (Math.max(...change.map(Math.abs)) < 1e-9) break;
  }
  return { weights, kind: "fitted" };
}

/** The solution of a system with a positive definite matrix, by elimination. */
function solved(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]!]);
  for (const [i, row] of rows.entries())
    for (const [k, other] of rows.entries()) {
      const factor = k === i ? 0 : other[i]! / row[i]!;
      if (factor !== 0) for (let j = i; j < row.length; j++) other[j]! -= factor * row[j]!;
    }
  return rows.map((row, i) => row.at(-1)! / row[i]!);
}

/** The probability that a good one has a higher score than a bad one (half for equal ones); null without both kinds. */
export function areaUnderCurve(scored: readonly { score: number; good: boolean }[]): number | null {
  const sorted = scored.toSorted((a, b) => a.score - b.score);
  const good = sorted.filter((one) => one.good).length;
  const bad = sorted.length - good;
  if (good === 0 || bad === 0) return null;
  let ranks = 0;
  for (let from = 0; from < sorted.length; ) {
    let to = from;
    while (to < sorted.length && sorted[to]!.score === sorted[from]!.score) to++;
    ranks += sorted.slice(from, to).filter((one) => one.good).length * ((from + 1 + to) / 2);
    from = to;
  }
  return (ranks - (good * (good + 1)) / 2) / (good * bad);
}
