import { tensor } from "../core/tensor.ts";
import type { Encoder, EncoderBatch } from "../models/encoder.ts";
import { type EncodedText, placeTexts, type TextRows, uploadRows } from "../models/text_rows.ts";
import { IGNORE } from "./data/index.ts";
import { permutation } from "./data/permutation.ts";
import type { HostBatch } from "./recipe.ts";
import type { Objective } from "./trainer.ts";

/** A text, and what a classifier should say of it: the number of its class, or 0 or 1 for each label. */
export interface LabelledIds extends EncodedText {
  ids: readonly number[];
  target: readonly number[];
}

/** Rows of whole texts. */
export interface TextBatch extends HostBatch {
  rows: TextRows;
  /** The targets of as many texts as any batch may hold; -100 in places without a text. */
  labels: Float32Array;
  /** The texts, in the order of their labels. */
  texts: readonly LabelledIds[];
}

/** A batch on the device. */
export type TextInputs = Pick<EncoderBatch, keyof ReturnType<typeof uploadRows> | "labels" | "classWeights">;

/** Rows that a text may still be put into: more would waste fewer places, and cost time that grows with the number of texts. */
const openRows = 64;

/**
 * Spreads texts over rows of `length` tokens: in an order that `seed` decides, each into the first of the last rows that has
 * room, so that hardly a place is left empty. A row is what training shuffles and counts.
 */
export function fillRows<E extends EncodedText>(texts: readonly E[], length: number, seed: number): E[][] {
  const rows: { texts: E[]; used: number }[] = [];
  for (const i of permutation(texts.length, seed, texts.length)) {
    const size = texts[i].ids.length;
    const fitting = rows.slice(-openRows).find(({ used }) => used + size <= length);
    const row = fitting ?? { texts: [], used: 0 };
    if (!fitting) rows.push(row);
    row.texts.push(texts[i]);
    row.used += size;
  }
  return rows.map((row) => row.texts);
}

/** Makes batches of one shape of rows of texts, for a text classifier. */
export class TextBatches {
  readonly #model: Encoder;
  readonly #length: number;
  readonly #width: number;
  readonly #mostInRow: number;
  readonly #weights: Float32Array | null;

  /** `length` tokens a row, `width` numbers a target, at most `mostInRow` texts in a row; `weights` of classes in the loss. */
  constructor(
    model: Encoder,
    options: { length: number; width: number; mostInRow: number; weights: Float32Array | null },
  ) {
    this.#model = model;
    this.#length = options.length;
    this.#width = options.width;
    this.#mostInRow = options.mostInRow;
    this.#weights = options.weights;
  }

  readonly collate = (rows: readonly (readonly LabelledIds[])[]): TextBatch => {
    const texts = rows.flat();
    const starts: number[] = [];
    for (const [r, row] of rows.entries()) {
      let at = r * this.#length;
      for (const { ids } of row) {
        starts.push(at);
        at += ids.length;
      }
    }
    const shape: [number, number] = [rows.length, this.#length];
    const placed = placeTexts(this.#model, texts, Int32Array.from(starts), shape);
    const deciding = new Int32Array(rows.length * this.#mostInRow);
    deciding.set(placed.deciding);
    const labels = new Float32Array(deciding.length * this.#width).fill(IGNORE);
    texts.forEach(({ target }, i) => void labels.set(target, i * this.#width));
    const weights = this.#weights;
    const supervised = weights
      ? texts.reduce((sum, { target }) => sum + weights[target[0]], 0)
      : texts.length;
    return { rows: { ...placed, deciding }, labels, texts, supervised, tokens: placed.tokens };
  };

  /** Batches of `count` rows each; rows without texts fill up the last. */
  *all(rows: readonly (readonly LabelledIds[])[], count: number): Generator<TextBatch> {
    for (let start = 0; start < rows.length; start += count)
      yield this.collate(Array.from({ length: count }, (_, i) => rows[start + i] ?? []));
  }

  /** The loss of such batches: the model's own. */
  readonly objective: Objective<TextBatch, TextInputs> = {
    upload: (batch) => this.upload(batch),
    loss: (inputs) => this.#model.loss(inputs),
  };

  upload({ rows, labels }: TextBatch): TextInputs {
    const isSeveral = this.#width > 1;
    const shape = isSeveral ? [rows.deciding.length, this.#width] : [rows.deciding.length];
    return {
      ...uploadRows(rows, this.#model),
      labels: tensor(labels, shape, isSeveral ? "f32" : "i32"),
      ...(this.#weights && { classWeights: tensor(this.#weights) }),
    };
  }
}
