import { KilnError } from "../../core/errors.ts";
import { byteLength, whiteSpace } from "./words.ts";

export interface PerplexityScore {
  /** exp of the mean negative log-likelihood of an item, as lm-eval's `perplexity` (of one word per item, say). */
  perplexity: number;
  /** Per token of the model: comparable between models of one tokenizer only. */
  tokenPerplexity: number;
  /** Per word of the text as it was, whatever the tokenizer makes of it. */
  wordPerplexity: number;
  /** Per UTF-8 byte of the text. */
  bytePerplexity: number;
  /** Comparable between all models. */
  bitsPerByte: number;
}

/**
 * Perplexities of texts, as EleutherAI's lm-evaluation-harness defines them. Words are what stands between white space;
 * white space at an end stands beside an empty word, there as here. Keeps the sums alone.
 */
export class Perplexity {
  #items = 0;
  #logLikelihood = 0;
  #tokens = 0;
  #words = 0;
  #bytes = 0;

  /**
   * Adds a text with the sum of its tokens' log-likelihoods, in nats, and the number of these tokens.
   * @throws KilnError for a log-likelihood that is no number.
   */
  add(text: string, logLikelihood: number, tokens: number): void {
    if (Number.isNaN(logLikelihood))
      throw new KilnError("the log-likelihood of a text is NaN; look for NaN in the model's weights");
    this.#items++;
    this.#logLikelihood += logLikelihood;
    this.#tokens += tokens;
    this.#words += text.split(whiteSpace).length;
    this.#bytes += byteLength(text);
  }

  /** NaN where nothing was added. */
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
