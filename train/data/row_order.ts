import { KilnError } from "../../core/errors.ts";
import { permutation } from "./permutation.ts";

/** The place of training in the data: which pass, and how many of its rows are used. */
export interface DataCursor {
  epoch: number;
  index: number;
}

/**
 * Endless batches of rows, each row once per epoch, in shuffled order. Everything depends on (seed, epoch, index) alone:
 * `state` is two numbers, and `restore` goes on exactly from there. A batch may span two epochs, so no row is lost.
 */
export abstract class ShuffledRows<B> {
  readonly rowsPerEpoch: number;
  readonly #seed: number;
  #cursor: DataCursor = { epoch: 0, index: 0 };
  #shuffled: { epoch: number; rows: Uint32Array } | null = null;

  constructor(rowsPerEpoch: number, seed: number) {
    this.rowsPerEpoch = rowsPerEpoch;
    this.#seed = seed;
  }

  /** The next batch. */
  abstract next(): B;

  /** The next row, and the epoch that it belongs to. */
  protected nextRow(): { epoch: number; row: number } {
    const { epoch, index } = this.#cursor;
    if (this.#shuffled?.epoch !== epoch)
      this.#shuffled = { epoch, rows: permutation(this.rowsPerEpoch, this.#seed, epoch, 1) };
    const isLast = index + 1 === this.rowsPerEpoch;
    this.#cursor = isLast ? { epoch: epoch + 1, index: 0 } : { epoch, index: index + 1 };
    return { epoch, row: this.#shuffled.rows[index] };
  }

  /** What to save in a checkpoint. */
  state(): DataCursor {
    return { ...this.#cursor };
  }

  /** Goes on from a saved state. Errors: a state that data of this many rows cannot have. */
  restore({ epoch, index }: DataCursor): void {
    const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
    if (!isCount(epoch) || !isCount(index) || index >= this.rowsPerEpoch) {
      throw new KilnError(
        `cannot resume at epoch ${epoch}, row ${index}: an epoch of this data has ${this.rowsPerEpoch} rows; resume with the same data and sequence length`,
      );
    }
    this.#cursor = { epoch, index };
  }
}

/** Batches of `batchSize` examples that fit in memory, each made by `collate`. Throws a KilnError without examples. */
export class ShuffledBatches<E, B> extends ShuffledRows<B> {
  readonly #examples: readonly E[];
  readonly #batchSize: number;
  readonly #collate: (examples: E[]) => B;

  constructor(
    examples: readonly E[],
    { batchSize, seed }: { batchSize: number; seed: number },
    collate: (examples: E[]) => B,
  ) {
    if (examples.length === 0) throw new KilnError("there are no examples to make batches of");
    super(examples.length, seed);
    this.#examples = examples;
    this.#batchSize = batchSize;
    this.#collate = collate;
  }

  next(): B {
    return this.#collate(Array.from({ length: this.#batchSize }, () => this.#examples[this.nextRow().row]));
  }
}
