import { KilnError } from "../../core/errors.ts";

/**
 * The unbiased estimate of pass@k (Chen et al. 2021), the probability that at least one of `k` programs is correct:
 * 1 - C(samples - correct, k) / C(samples, k). Computed as a product, which cannot overflow.
 * @throws KilnError if there are fewer samples than k, or the counts are invalid.
 */
export function passAtK(samples: number, correct: number, k: number): number {
  const isCount = [samples, correct, k].every((value) => Number.isInteger(value) && value >= 0);
  if (!isCount || k === 0 || samples < k || correct > samples) {
    throw new KilnError(
      `pass@${k} needs at least ${Math.max(k, 1)} samples of a problem, no more of them correct than there are; got ${correct} of ${samples}`,
    );
  }
  if (samples - correct < k) return 1;
  let fails = 1;
  for (let i = samples - correct + 1; i <= samples; i++) fails *= 1 - k / i;
  return 1 - fails;
}

/** Mean pass@k over problems, for one or several k. Memory does not grow with the data. */
export class PassAtK {
  readonly #sums: Map<number, number>;
  #problems = 0;

  constructor(ks: readonly number[] = [1]) {
    this.#sums = new Map(ks.map((k) => [k, 0]));
  }

  /** Adds a problem. Throws KilnError if it has fewer samples than the largest k. */
  add(samples: number, correct: number): void {
    const scores = [...this.#sums.keys()].map((k) => [k, passAtK(samples, correct, k)] as const);
    for (const [k, score] of scores) this.#sums.set(k, this.#sums.get(k)! + score);
    this.#problems++;
  }

  /** The mean for each k, 0 to 1. NaN if nothing was added. */
  value(): Map<number, number> {
    return new Map([...this.#sums].map(([k, sum]) => [k, sum / this.#problems]));
  }
}
