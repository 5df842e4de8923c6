import { tensor } from "../core/tensor.ts";
import type { Encoder, EncoderBatch } from "../models/encoder.ts";
import { type EncodedText, placeTexts, type TextRows, uploadRows } from "../models/text_rows.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { shownToken } from "./data/masking.ts";
import { hash32 } from "./data/permutation.ts";
import { ShuffledRows } from "./data/row_order.ts";
import type { HostBatch } from "./recipe.ts";
import type { Objective } from "./trainer.ts";

/** Rows of whole texts in which some tokens are to be guessed. */
export interface MaskedBatch extends HostBatch {
  rows: TextRows;
  /** Places (of rows * length) that are guessed, and the tokens that were there; -100 fills up to a fixed number. */
  places: Int32Array;
  labels: Int32Array;
}

export type MaskedInputs = Pick<EncoderBatch, keyof ReturnType<typeof uploadRows> | "labels">;

export interface MaskOptions {
  batchSize: number;
  /** Tokens of a row. */
  length: number;
  seed: number;
  /** Share of the tokens that are guessed. */
  share: number;
}

/**
 * Endless batches for a masked language model (Devlin et al. 2018): of a row's tokens that are not special `share` are to be
 * guessed, at least one, and `shownToken` stands in their places. Which, depends on the seed, the pass over the data, the row and
 * the place alone.
 */
export class MaskedBatches extends ShuffledRows<MaskedBatch> {
  readonly #model: Encoder;
  readonly #tokenizer: Tokenizer;
  readonly #rows: readonly (readonly EncodedText[])[];
  readonly #options: MaskOptions;

  /** `rows` are those of `fillRows`; the tokenizer must have a mask token. */
  constructor(
    model: Encoder,
    tokenizer: Tokenizer,
    rows: readonly (readonly EncodedText[])[],
    options: MaskOptions,
  ) {
    super(rows.length, options.seed);
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#rows = rows;
    this.#options = options;
  }

  next(): MaskedBatch {
    return this.#batch(Array.from({ length: this.#options.batchSize }, () => this.nextRow()));
  }

  /** Each row once, in order and with the same masks every time; empty rows fill up the last batch. */
  *all(count = this.#rows.length): Generator<MaskedBatch> {
    const { batchSize } = this.#options;
    for (let start = 0; start < count; start += batchSize)
      yield this.#batch(Array.from({ length: batchSize }, (_, i) => ({ epoch: 0, row: start + i })));
  }

  #batch(chosen: readonly { epoch: number; row: number }[]): MaskedBatch {
    const { length, share } = this.#options;
    const rows = chosen.map(({ row }) => this.#rows[row] ?? []);
    const starts = rows.flatMap((row, r) => {
      let at = r * length;
      return row.map(({ ids }) => {
        at += ids.length;
        return at - ids.length;
      });
    });
    const shape: [number, number] = [rows.length, length];
    const placed = placeTexts(this.#model, rows.flat(), Int32Array.from(starts), shape);
    const most = rows.length * Math.max(1, Math.round(share * length));
    const places = new Int32Array(most);
    const labels = new Int32Array(most).fill(-100);
    let supervised = 0;
    const masking = { maskId: this.#tokenizer.maskId!, vocabSize: this.#model.shape.vocab_size };
    for (const [r, { epoch, row }] of chosen.entries()) {
      const used = rows[r].reduce((sum, { ids }) => sum + ids.length, 0);
      const start = r * length;
      for (const place of this.#guessed(placed.tokens, start, used, epoch, row)) {
        const token = placed.tokens[place];
        places[supervised] = place;
        labels[supervised++] = token;
        // Not the place in the batch: a row is masked in the same way whatever batch it is in.
        const hash = hash32(this.#options.seed, epoch, row, place - start, 1);
        placed.tokens[place] = shownToken(token, hash, masking);
      }
    }
    return { rows: placed, places, labels, supervised, tokens: placed.tokens };
  }

  /** The places of a row that are guessed: those with the smallest hashes. */
  #guessed(tokens: Int32Array, start: number, used: number, epoch: number, row: number): number[] {
    const { seed, share } = this.#options;
    const places = Array.from({ length: used }, (_, i) => start + i).filter(
      (place) => !this.#tokenizer.isSpecial(tokens[place]),
    );
    const keys = new Map(places.map((place) => [place, hash32(seed, epoch, row, place - start)]));
    const count = places.length === 0 ? 0 : Math.max(1, Math.round(share * places.length));
    return places.sort((a, b) => keys.get(a)! - keys.get(b)! || a - b).slice(0, count);
  }

  /** The loss of such batches: the model's own. */
  readonly objective: Objective<MaskedBatch, MaskedInputs> = {
    upload: ({ rows, places, labels }) => ({
      ...uploadRows(rows, this.#model),
      rows: tensor(places, [places.length], "i32"),
      labels: tensor(labels, [labels.length], "i32"),
    }),
    loss: (inputs) => this.#model.loss(inputs),
  };
}
