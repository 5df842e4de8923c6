import { KilnError } from "../../core/errors.ts";
import { permutation } from "./permutation.ts";
import { ShuffledRows } from "./row_order.ts";
import type { Span, TokenReader } from "./shards.ts";
import { countTokens } from "./split.ts";

/** The target of a position that is not learned: the last token of a document, and padding. */
export const IGNORE = -100;

/** `batchSize` (B) rows of `seqLen` (T) tokens, row after row; every array has B*T entries. */
export interface Batch {
  tokens: Int32Array;
  /** The next token of the same document, or -100. */
  targets: Int32Array;
  /** Position in the document; if that continues from an earlier row, counted from the start of this row. */
  positions: Int32Array;
  /** Number of the document within its row: attention stays within equal numbers. */
  segments: Int32Array;
  /** UTF-8 bytes of the text in the rows; a document's bytes are spread evenly over its tokens. */
  bytes: number;
  /** Targets that are not -100: what a sum of losses is divided by. */
  supervised: number;
}

export interface PackingOptions {
  /** Rows in a batch. */
  batchSize: number;
  /** Tokens in a row. */
  seqLen: number;
}

/** The documents of one pass, laid end to end in some order: `ends[i]` is where the i-th of them ends. */
interface Layout {
  spans: readonly Span[];
  order: Uint32Array;
  ends: Float64Array;
  /** Whether the first document follows the last. */
  isRing: boolean;
}

/**
 * Endless batches of packed rows for training. In each epoch the documents are shuffled, laid end to end as a ring and cut
 * into rows of T tokens, and the rows are shuffled as well. A document that does not fit continues in another row. The first
 * cut is at a different place in each of T epochs, so that even a single document is never seen in the same rows. Every
 * token of the corpus appears every epoch; if T does not divide their number, the last row continues at the start of the
 * ring, and the tokens there appear twice. A corpus shorter than T gives one padded row.
 */
export class PackedBatches extends ShuffledRows<Batch> {
  readonly #shard: TokenReader;
  readonly #spans: readonly Span[];
  readonly #options: PackingOptions & { seed: number };
  #current: { epoch: number; layout: Layout; phase: number } | null = null;

  constructor(shard: TokenReader, spans: readonly Span[], options: PackingOptions & { seed: number }) {
    checkOptions(spans, options);
    super(Math.ceil(countTokens(spans) / options.seqLen), options.seed);
    this.#shard = shard;
    this.#spans = spans;
    this.#options = options;
  }

  next(): Batch {
    const { batchSize, seqLen } = this.#options;
    const batch = emptyBatch(batchSize, seqLen);
    for (let i = 0; i < batchSize; i++) {
      const { epoch, row } = this.nextRow();
      const { layout, phase } = this.#epochLayout(epoch);
      fillRow(batch, i, seqLen, this.#shard, layout, phase + row * seqLen);
    }
    return batch;
  }

  #epochLayout(epoch: number): { layout: Layout; phase: number } {
    if (this.#current?.epoch !== epoch) {
      const { seed, seqLen } = this.#options;
      const isRing = countTokens(this.#spans) >= seqLen;
      const layout = layOut(this.#spans, permutation(this.#spans.length, seed, epoch, 0), isRing);
      const phases = permutation(seqLen, seed, Math.floor(epoch / seqLen), 2);
      this.#current = { epoch, layout, phase: isRing ? phases[epoch % seqLen] : 0 };
    }
    return this.#current!;
  }
}

/**
 * Validation documents laid end to end in their own order and cut into rows: all of them (every token then appears once),
 * or `rows` of them spread evenly, the same ones every time. The last row and the last batch are filled up with padding
 * (its own segment, all targets -100), so that all batches have one shape.
 */
export function* validationBatches(
  shard: TokenReader,
  spans: readonly Span[],
  options: PackingOptions & { rows?: number },
): Generator<Batch> {
  checkOptions(spans, options);
  const { batchSize, seqLen } = options;
  const inOrder = Uint32Array.from(spans, (_, i) => i);
  const layout = layOut(spans, inOrder, false);
  const all = Math.ceil(layout.ends[spans.length - 1] / seqLen);
  const rows = Math.min(options.rows ?? all, all);
  for (let first = 0; first < rows; first += batchSize) {
    const batch = emptyBatch(batchSize, seqLen);
    for (let i = 0; i < batchSize; i++) {
      // A row past the last holds padding alone.
      const row = first + i < rows ? Math.floor(((first + i + 0.5) * all) / rows) : all;
      fillRow(batch, i, seqLen, shard, layout, row * seqLen);
    }
    yield batch;
  }
}

function checkOptions(spans: readonly Span[], { batchSize, seqLen }: PackingOptions): void {
  if (!Number.isInteger(batchSize) || batchSize < 1 || !Number.isInteger(seqLen) || seqLen < 2) {
    throw new KilnError(`a batch needs at least 1 row of 2 tokens, not ${batchSize} rows of ${seqLen}`);
  }
  if (spans.length === 0) throw new KilnError("there are no documents to make batches of");
}

export function emptyBatch(batchSize: number, seqLen: number): Batch {
  const zeros = () => new Int32Array(batchSize * seqLen);
  const targets = zeros().fill(IGNORE);
  return { tokens: zeros(), targets, positions: zeros(), segments: zeros(), bytes: 0, supervised: 0 };
}

function layOut(spans: readonly Span[], order: Uint32Array, isRing: boolean): Layout {
  const ends = new Float64Array(order.length);
  let end = 0;
  order.forEach((document, i) => {
    end += spans[document].length;
    ends[i] = end;
  });
  return { spans, order, ends, isRing };
}

/**
 * Writes the T tokens of a layout from place `from` on into row `into` of a batch. Past the end, a ring continues at its
 * start; another layout is followed by padding.
 */
function fillRow(
  batch: Batch,
  into: number,
  seqLen: number,
  shard: TokenReader,
  layout: Layout,
  from: number,
): void {
  const { spans, order, ends, isRing } = layout;
  const total = ends[ends.length - 1];
  const base = into * seqLen;
  let at = 0;
  let segment = 0;
  let place = isRing ? from % total : from;
  for (let i = firstAbove(ends, place); i < order.length && at < seqLen; ) {
    const span = spans[order[i]];
    const offset = place - (ends[i] - span.length);
    const count = Math.min(span.length - offset, seqLen - at);
    if (count > 0) copyPiece(batch, base + at, shard, span, offset, count, segment++);
    at += count;
    place += count;
    i++;
    if (isRing && i === order.length) [i, place] = [0, 0];
  }
  // Padding looks like one more document, so that every position has something to attend to.
  for (let position = 0; at < seqLen; position++, at++) {
    batch.positions[base + at] = position;
    batch.segments[base + at] = segment;
  }
}

/** Copies `count` tokens of a document from `offset` on to `at`, with their targets, positions and segment. */
function copyPiece(
  batch: Batch,
  at: number,
  shard: TokenReader,
  span: Span,
  offset: number,
  count: number,
  segment: number,
): void {
  const goesOn = offset + count < span.length;
  const known = new Int32Array(count + (goesOn ? 1 : 0));
  shard.read(span.start + offset, known.length, known);
  batch.tokens.set(known.subarray(0, count), at);
  batch.targets.set(known.subarray(1), at);
  for (let i = 0; i < count; i++) batch.positions[at + i] = i;
  batch.segments.fill(segment, at, at + count);
  const bytesUpTo = (tokens: number) => Math.floor((span.bytes * tokens) / span.length);
  batch.bytes += bytesUpTo(offset + count) - bytesUpTo(offset);
  batch.supervised += known.length - 1;
}

/** The first index whose value is above `limit`; `values` ascend. */
function firstAbove(values: Float64Array, limit: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > limit) high = middle;
    else low = middle + 1;
  }
  return low;
}
