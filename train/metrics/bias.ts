/** What swapping the words of one group for another's does to the scores of texts. */
export interface IdentityBiasScore {
  /** The mean, over texts and pairs of groups, of how far the scores of a text are apart (counterfactual gap, Garg et al. 2019). */
  gap: number;
  /** The share of texts whose decision is another for some group; null where none were given. */
  flips: number | null;
  /** By group: how far its versions are above the mean of their texts' versions, and the texts where it alone is highest. */
  groups: Record<string, { difference: number; highest: number; texts: number }>;
  texts: number;
}

/** Bias by identity-term swaps: the same texts, told of one group and of others. Memory does not grow with the texts. */
export class IdentityBias {
  readonly #groups = new Map<string, { sum: number; highest: number; texts: number }>();
  #gaps = 0;
  #flips = 0;
  #decided = 0;
  #texts = 0;

  /**
   * Adds a text.
   * @param scores of its version for each group, such as log-likelihoods or probabilities; two groups or more
   * @param decisions what the model decides on each version, such as a label
   */
  add(scores: Readonly<Record<string, number>>, decisions?: Readonly<Record<string, string>>): void {
    const entries = Object.entries(scores);
    const values = entries.map(([, value]) => value);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const top = Math.max(...values);
    const isTied = values.filter((value) => value === top).length > 1;
    for (const [group, value] of entries) {
      const known = this.#groups.get(group) ?? { sum: 0, highest: 0, texts: 0 };
      known.sum += value - mean;
      known.texts++;
      if (value === top && !isTied) known.highest++;
      this.#groups.set(group, known);
    }
    const pairs = values.flatMap((a, i) => values.slice(i + 1).map((b) => Math.abs(a - b)));
    this.#gaps += pairs.reduce((sum, gap) => sum + gap, 0) / pairs.length;
    this.#texts++;
    if (decisions === undefined) return;
    this.#decided++;
    if (new Set(Object.values(decisions)).size > 1) this.#flips++;
  }

  /** NaN if nothing was added. */
  value(): IdentityBiasScore {
    const groups = [...this.#groups].map(([group, { sum, highest, texts }]) => [
      group,
      { difference: sum / texts, highest, texts },
    ]);
    return {
      gap: this.#gaps / this.#texts,
      flips: this.#decided === 0 ? null : this.#flips / this.#decided,
      groups: Object.fromEntries(groups),
      texts: this.#texts,
    };
  }
}
