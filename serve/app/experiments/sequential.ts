import type { Rate } from "./rates.ts";

export interface SequentialOptions {
  /** Share of experiments without a difference in which one is found, however often somebody looks. Default 0.05. */
  alpha?: number;
  /** Variance of the differences that are expected, as a normal distribution around 0. Default 0.01: about 10 points. */
  tau2?: number;
}

export interface Look {
  /** b's rate minus a's; null where an arm has no votes. */
  difference: number | null;
  /** Holds the true difference at every look at once with probability 1 - alpha; null where nothing is known yet. */
  interval: [low: number, high: number] | null;
  /** Always valid: may be read, and acted upon, at any time. */
  pValue: number;
  significant: boolean;
}

/**
 * The mixture sequential probability ratio test of two rates (Robbins 1970; Johari et al. 2017), for experiments that people look
 * at every day. The ratio mixes the likelihood of all differences by a normal prior against that of none; the p-value is the
 * least of its inverse so far, and the interval what no look so far has excluded. The difference is taken to be normal with the
 * variance p(1 - p)(1/n1 + 1/n2) of the pooled rate p.
 */
export class SequentialTest {
  readonly #alpha: number;
  readonly #tau2: number;
  #pValue = 1;
  #interval: [number, number] = [-1, 1];

  constructor({ alpha = 0.05, tau2 = 0.01 }: SequentialOptions = {}) {
    this.#alpha = alpha;
    this.#tau2 = tau2;
  }

  /** The state at the counts of this moment. Looks come in the order of time. */
  look(a: Rate, b: Rate): Look {
    if (a.count === 0 || b.count === 0) return this.#result(null);
    const difference = b.successes / b.count - a.successes / a.count;
    const share = (a.successes + b.successes) / (a.count + b.count);
    const variance = share * (1 - share) * (1 / a.count + 1 / b.count);
    // All votes are the same: they have no variance to measure a difference by.
    if (variance === 0) return this.#result(difference);
    const all = variance + this.#tau2;
    const logRatio = 0.5 * Math.log(variance / all) + (this.#tau2 * difference ** 2) / (2 * variance * all);
    this.#pValue = Math.min(this.#pValue, Math.exp(-logRatio));
    const half = Math.sqrt(
      ((2 * variance * all) / this.#tau2) * (Math.log(1 / this.#alpha) + 0.5 * Math.log(all / variance)),
    );
    const [low, high] = this.#interval;
    this.#interval = [Math.max(low, difference - half), Math.min(high, difference + half)];
    return this.#result(difference);
  }

  #result(difference: number | null): Look {
    const [low, high] = this.#interval;
    const knows = low > -1 || high < 1;
    return {
      difference,
      // Looks that contradict each other leave nothing: a rate that changed meanwhile has no one difference.
      interval: knows && low <= high ? [low, high] : null,
      pValue: this.#pValue,
      significant: this.#pValue < this.#alpha,
    };
  }
}
