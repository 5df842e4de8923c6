/** How much a model's prediction of a text owes to what comes before it. */
export interface CoherenceScore {
  /** Nats that a token of the text gains by the true context over another, on average. */
  gain: number;
  /** Texts that the true context makes likelier. */
  wins: number;
  texts: number;
}

/** Coherence: texts after their own context, and after one that is shuffled or another's. Memory does not grow with the texts. */
export class Coherence {
  #gain = 0;
  #tokens = 0;
  #wins = 0;
  #texts = 0;

  /** Adds a text of so many tokens, with its log-likelihood in nats after its own context and after the other. */
  add(own: number, other: number, tokens: number): void {
    this.#gain += own - other;
    this.#tokens += tokens;
    if (own > other) this.#wins++;
    this.#texts++;
  }

  /** NaN if nothing was added. */
  value(): CoherenceScore {
    return { gain: this.#gain / this.#tokens, wins: this.#wins, texts: this.#texts };
  }
}
