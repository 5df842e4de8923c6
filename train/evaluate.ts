import { dispose } from "../core/scope.ts";
import { type Batch, countTokens, type Span, type TokenShard, validationBatches } from "./data/index.ts";
import type { Evaluation, Evaluator } from "./recipe.ts";

/** A validation loss and what it was measured on. */
export type ValidationMetrics = {
  /** Mean nats per predicted token. */
  validation_loss: number;
  /** Null if the rows represent no text. */
  bits_per_byte: number | null;
  /** The number of predicted tokens that the loss is the mean of; null in the logs of older runs. */
  validation_tokens: number | null;
};

/** Tokens of one pass. It is not the batch size of training, since a validation loss must not depend on that. */
const passTokens = 4096;

/** Rows of held-out data. */
export interface HeldOut<B = Batch> {
  /** The number of all rows, and the tokens of each. */
  rows: number;
  seqLen: number;
  /** `rows` of them spread evenly, the same ones every time, in batches of one shape. */
  batches(options: { rows: number; batchSize: number }): Iterable<B>;
}

/** Held-out documents laid end to end. */
export const heldOutText = (shard: TokenShard, spans: readonly Span[], seqLen: number): HeldOut => ({
  rows: Math.ceil(countTokens(spans) / seqLen),
  seqLen,
  batches: (options) => validationBatches(shard, spans, { ...options, seqLen }),
});

/** Measures the loss of held-out rows of one length. */
export class Validation implements Evaluation<Batch> {
  readonly criterion = "validation_loss";
  readonly #held: HeldOut;
  /** Rows of a measurement within the budget. */
  readonly #budgetRows: number;

  /** `tokens` is the budget of `sample`. */
  constructor(held: HeldOut, tokens: number) {
    this.#held = held;
    this.#budgetRows = Math.min(held.rows, Math.ceil(tokens / held.seqLen));
  }

  /** Tokens of the whole set, rounded up to rows. */
  get size(): string {
    return `${(this.#held.rows * this.#held.seqLen).toLocaleString("en")} held-out tokens`;
  }

  /** Whether `sample` reads the whole set. */
  get samplesAll(): boolean {
    return this.#budgetRows === this.#held.rows;
  }

  /** The loss on rows spread evenly over the set, the same ones every time; null where nothing can be predicted. */
  sample(trainer: Evaluator<Batch>): Promise<ValidationMetrics | null> {
    return this.#measure(trainer, this.#budgetRows);
  }

  /** The loss on the whole set, which may take long; null also if `signal` ended it. */
  all(trainer: Evaluator<Batch>, signal?: AbortSignal): Promise<ValidationMetrics | null> {
    return this.#measure(trainer, this.#held.rows, signal);
  }

  /**
   * Both measurements use one shape of batch, found from the budget alone: rows of equal weights then give equal bits
   * whatever the batch size of training is, and the pass is compiled once.
   */
  async #measure(
    trainer: Evaluator<Batch>,
    rows: number,
    signal?: AbortSignal,
  ): Promise<ValidationMetrics | null> {
    if (rows === 0) return null;
    const most = Math.max(1, Math.floor(passTokens / this.#held.seqLen));
    const batchSize = Math.ceil(this.#budgetRows / Math.ceil(this.#budgetRows / most));
    let nats = 0;
    let supervised = 0;
    let bytes = 0;
    for (const batch of this.#held.batches({ rows, batchSize })) {
      await trainer.turn?.();
      if (signal?.aborted) return null;
      const sum = trainer.evaluate(batch);
      nats += await sum.item();
      dispose(sum);
      supervised += batch.supervised;
      bytes += batch.bytes;
    }
    if (supervised === 0) return null;
    return {
      validation_loss: nats / supervised,
      bits_per_byte: bytes === 0 ? null : nats / Math.LN2 / bytes,
      validation_tokens: supervised,
    };
  }
}
