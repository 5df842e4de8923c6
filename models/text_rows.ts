import { KilnError } from "../core/errors.ts";
import { tensor } from "../core/tensor.ts";
import type { Encoder, EncoderInput } from "./encoder.ts";

/** The token ids of a text, special tokens included, and of a pair the text (0 or 1) that each belongs to. */
export interface EncodedText {
  ids: ArrayLike<number>;
  typeIds?: ArrayLike<number> | undefined;
}

/** Texts in rows of tokens, in host memory. */
export interface TextRows {
  /** Number of rows, and tokens of each. */
  shape: [rows: number, length: number];
  /** The columns of `EncoderInput`, of rows * length values each; padding is a segment of its own. */
  tokens: Int32Array;
  positions: Int32Array;
  segments: Int32Array;
  tokenTypes: Int32Array;
  /** For each text the place (of rows * length) of its first token, and of the one that decides its class. */
  starts: Int32Array;
  deciding: Int32Array;
}

/**
 * Packs texts into rows of `length` tokens, the longest first, each into the first row where it fits (first-fit decreasing):
 * hardly a place is left to padding, and attention stays inside a text, so packing changes no result. With `rows` given there
 * are exactly as many, and the shape is that of every other batch.
 *
 * @throws KilnError where a text has no token or does not fit into a row, or the texts do not fit into `rows`
 */
export function packTexts(
  model: Encoder,
  texts: readonly EncodedText[],
  length: number,
  rows?: number,
): TextRows {
  const order = texts.map((_, i) => i).sort((a, b) => texts[b].ids.length - texts[a].ids.length || a - b);
  const used: number[] = [];
  const starts = new Int32Array(texts.length);
  for (const i of order) {
    const size = texts[i].ids.length;
    if (size === 0 || size > length)
      throw new KilnError(`text ${i} has ${size} tokens; a row holds 1 to ${length}`, {
        code: "text_length",
      });
    const fits = used.findIndex((taken) => taken + size <= length);
    const row = fits < 0 ? used.push(0) - 1 : fits;
    starts[i] = row * length + used[row];
    used[row] += size;
  }
  if (used.length > (rows ?? used.length))
    throw new KilnError(`the texts need ${used.length} rows of ${length} tokens; there are ${rows}`);
  return placeTexts(model, texts, starts, [rows ?? used.length, length]);
}

/** A text a row, as many tokens as `length` with padding: what a row gives then depends on its text and `length` alone. */
export function rowsOfOne(model: Encoder, texts: readonly EncodedText[], length: number): TextRows {
  const starts = Int32Array.from(texts, (_, i) => i * length);
  return placeTexts(model, texts, starts, [texts.length, length]);
}

/** Texts in rows of `shape` whose first tokens have the places `starts`, of rows * length; the texts must not overlap. */
export function placeTexts(
  model: Encoder,
  texts: readonly EncodedText[],
  starts: Int32Array,
  shape: [rows: number, length: number],
): TextRows {
  const column = (value: number) => new Int32Array(shape[0] * shape[1]).fill(value);
  const tokens = column(model.padId);
  const [positions, segments, tokenTypes] = [column(0), column(0), column(0)];
  texts.forEach(({ ids, typeIds }, i) => {
    const at = starts[i];
    tokens.set(ids, at);
    positions.set(model.positionsOf(ids), at);
    segments.fill(i + 1, at, at + ids.length);
    if (typeIds) tokenTypes.set(typeIds, at);
  });
  const last = starts.map((start, i) => start + texts[i].ids.length - 1);
  const deciding = model.decidingToken === "first" ? starts : last;
  return { shape, tokens, positions, segments, tokenTypes, starts, deciding };
}

/** The rows on the device; the head reads all tokens, or of a text classifier those that decide. */
export function uploadRows(rows: TextRows, model: Encoder) {
  const column = (values: Int32Array) => tensor(values, rows.shape, "i32");
  return {
    tokens: column(rows.tokens),
    positions: column(rows.positions),
    segments: column(rows.segments),
    tokenTypes: column(rows.tokenTypes),
    ...(model.task === "text-classification" && {
      rows: tensor(rows.deciding, [rows.deciding.length], "i32"),
    }),
  } satisfies EncoderInput;
}
