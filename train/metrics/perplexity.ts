import { KilnError } from "../../core/errors.ts";
import { TextSize } from "../../core/statistics/words.ts";

export interface PerplexityScore {
  /** exp of the mean negative log-likelihood per item: `perplexity` in lm-eval. */
  perplexity: number;
  /** Per token. Only comparable between models with the same tokenizer. */
  tokenPerplexity: number;
  /** Per word of the original text, independent of the tokenizer. */
  wordPerplexity: number;
  /** Per UTF-8 byte of the original text. */
  bytePerplexity: number;
  /** Comparable between any two models. */
  bitsPerByte: number;
}

/**
 * Perplexities of texts as in EleutherAI's lm-evaluation-harness. Words are counted by splitting at white space; leading or
 * trailing white space counts as one more word, as it does there. Memory does not grow with the data.
 */
export class Perplexity {
  #items = 0;
  #logLikelihood = 0;
  #tokens = 0;
  #words = 0;
  #bytes = 0;

  /**
   * Adds a text, or its size, with the summed log-likelihood of its tokens, in nats, and the number of these tokens.
   * @throws KilnError if the log-likelihood is NaN.
   */
  add(text: string | TextSize, logLikelihood: number, tokens: number): void {
    if (Number.isNaN(logLikelihood))
      throw new KilnError("the log-likelihood of a text is NaN; look for NaN in the model's weights");
    this.#items++;
    this.#logLikelihood += logLikelihood;
    this.#tokens += tokens;
    const { words, bytes } = typeof text === "string" ? new TextSize().add(text) : text;
    this.#words += words;
    this.#bytes += bytes;
  }

  /** NaN if nothing was added. */
  value(): PerplexityScore {
    const nats = -this.#logLikelihood;
    return {
      perplexity: Math.exp(nats / this.#items),
      tokenPerplexity: Math.exp(nats / this.#tokens),
      wordPerplexity: Math.exp(nats / this.#words),
      bytePerplexity: Math.exp(nats / this.#bytes),
      bitsPerByte: nats / this.#bytes / Math.LN2,
    };
  }
}
