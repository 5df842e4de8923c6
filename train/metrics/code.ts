import { KilnError } from "../../core/errors.ts";

/**
 * The unbiased estimate of pass@k (Chen et al. 2021): the probability that one of `k` programs passes, from `correct` of
 * `samples` that did: 1 - C(samples - correct, k) / C(samples, k), as a product, which never overflows.
 * @throws KilnError for fewer samples than k, or counts that cannot be.
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

/** Means of pass@k over problems, for several k. Keeps the sums alone. */
export class PassAtK {
  readonly #sums: Map<number, number>;
  #problems = 0;

  constructor(ks: readonly number[] = [1]) {
    this.#sums = new Map(ks.map((k) => [k, 0]));
  }

  /** Adds a problem. Throws KilnError where it has fewer samples than the largest k. */
  add(samples: number, correct: number): void {
    const scores = [...this.#sums.keys()].map((k) => [k, passAtK(samples, correct, k)] as const);
    for (const [k, score] of scores) this.#sums.set(k, this.#sums.get(k)! + score);
    this.#problems++;
  }

  /** By k, 0 to 1; NaN where nothing was added. */
  value(): Map<number, number> {
    return new Map([...this.#sums].map(([k, sum]) => [k, sum / this.#problems]));
  }
}
