import { tensor } from "../core/tensor.ts";
import type { Encoder } from "../models/encoder.ts";
import { configError } from "../models/formats/validation.ts";
import { rowsOfOne, type TextRows, uploadRows } from "../models/text_rows.ts";
import { permutation } from "./data/permutation.ts";
import { ShuffledRows } from "./data/row_order.ts";
import type { HeldOut } from "./evaluate.ts";
import type { PairInputs } from "./losses/contrastive.ts";
import type { HostBatch } from "./recipe.ts";

/** A pair as tokens. Pairs of one query, or of one passage, have the same number. */
export interface EncodedPair {
  query: readonly number[];
  passage: readonly number[];
  queryNumber: number;
  passageNumber: number;
}

/** Groups of pairs. */
export interface PairBatch extends HostBatch {
  query: TextRows;
  passage: TextRows;
  /** [groups, size, size]. */
  blocked: Float32Array;
  size: number;
}

export interface PairOptions {
  /** Groups of a batch, and pairs of a group, whose passages are each other's wrong answers. */
  batchSize: number;
  group: number;
  /** Tokens of a query's row and of a passage's. */
  lengths: { query: number; passage: number };
  seed: number;
}

/** Far below any cosine, and still a number of its own in f32 beside them. */
const BLOCKED = -1e9;

/** The batch of pairs in groups of `size`. */
function batchOf(
  model: Encoder,
  pairs: readonly EncodedPair[],
  size: number,
  lengths: PairOptions["lengths"],
) {
  const [query, passage] = (["query", "passage"] as const).map((side) =>
    rowsOfOne(
      model,
      pairs.map((pair) => ({ ids: pair[side] })),
      lengths[side],
    ),
  );
  const blocked = new Float32Array(pairs.length * size);
  for (const [i, pair] of pairs.entries()) {
    const first = i - (i % size);
    for (let j = 0; j < size; j++) {
      const other = pairs[first + j];
      const same = other.queryNumber === pair.queryNumber || other.passageNumber === pair.passageNumber;
      if (same && other !== pair) blocked[i * size + j] = BLOCKED;
    }
  }
  const tokens = { length: query.tokens.length + passage.tokens.length };
  return { query, passage, blocked, size, supervised: pairs.length, tokens } satisfies PairBatch;
}

/** A batch on the device. */
export function uploadPairs({ query, passage, blocked, size }: PairBatch, model: Encoder): PairInputs {
  const sides = Object.entries({ query, passage }).flatMap(([side, rows]) =>
    Object.entries(uploadRows(rows, model)).map(([name, column]) => [`${side}_${name}`, column]),
  );
  const count = blocked.length / size;
  return {
    ...Object.fromEntries(sides),
    blocked: tensor(blocked, [count / size, size, size]),
    places: tensor(
      Int32Array.from({ length: count }, (_, i) => i % size),
      [count],
      "i32",
    ),
  };
}

/**
 * Endless batches of groups of pairs. Each pass over the data forms other groups, so that a pair meets other wrong answers; what
 * does not fill a group waits for the next pass. A group is a row: an update in pieces is the whole one.
 */
export class PairBatches extends ShuffledRows<PairBatch> {
  readonly #model: Encoder;
  readonly #pairs: readonly EncodedPair[];
  readonly #options: PairOptions;
  #order: { epoch: number; pairs: Uint32Array } | null = null;

  constructor(model: Encoder, pairs: readonly EncodedPair[], options: PairOptions) {
    if (pairs.length < options.group)
      throw configError(
        `ranking.group is ${options.group}, and there are ${pairs.length} pairs to train on: lower it, or give more data`,
      );
    super(Math.floor(pairs.length / options.group), options.seed);
    this.#model = model;
    this.#pairs = pairs;
    this.#options = options;
  }

  next(): PairBatch {
    const { batchSize, group, lengths } = this.#options;
    const rows = Array.from({ length: batchSize }, () => this.nextRow());
    const chosen = rows.flatMap(({ epoch, row }) =>
      Array.from(this.#orderOf(epoch).subarray(row * group, (row + 1) * group), (i) => this.#pairs[i]),
    );
    return batchOf(this.#model, chosen, group, lengths);
  }

  #orderOf(epoch: number): Uint32Array {
    if (this.#order?.epoch !== epoch)
      this.#order = { epoch, pairs: permutation(this.#pairs.length, this.#options.seed, epoch, 2) };
    return this.#order.pairs;
  }
}

/** Held-out pairs in groups of the same size, in order; the last may be smaller. */
export const heldOutPairs = (
  model: Encoder,
  pairs: readonly EncodedPair[],
  { group, lengths }: PairOptions,
): HeldOut<PairBatch> => ({
  rows: pairs.length,
  seqLen: lengths.query + lengths.passage,
  *batches({ rows }) {
    for (let start = 0; start < rows; start += group) {
      const some = pairs.slice(start, Math.min(start + group, rows));
      // Alone, a passage is always the nearest.
      if (some.length > 1) yield batchOf(model, some, some.length, lengths);
    }
  },
});
