/** Rows of an update, and tokens of a row. */
export interface RowShape {
  readonly batch_size: number;
  readonly sequence_length: number;
}

/** Row lengths are multiples of this. */
const STEP = 16;

/**
 * Rows for examples of `lengths` tokens, as long and as many as `largest` where that leaves `updates` in a pass; else shorter ones,
 * as far as every example still fits, and then fewer.
 */
export function fitRows(lengths: readonly number[], updates: number, largest: RowShape): RowShape {
  const { batch_size, sequence_length } = largest;
  let [total, longest] = [0, 1];
  for (const length of lengths) {
    total += length;
    longest = Math.max(longest, length);
  }
  const wanted = total / updates;
  if (wanted >= batch_size * sequence_length) return largest;
  const needed = Math.max(longest, wanted / batch_size);
  const length = Math.min(sequence_length, Math.ceil(needed / STEP) * STEP);
  return {
    batch_size: Math.min(batch_size, Math.max(1, Math.floor(wanted / length))),
    sequence_length: length,
  };
}
