import { opError } from "../../core/op.ts";
import { checkList, rankOf } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { place } from "./place.ts";

export { cat, stack } from "./cat.ts";
export { place } from "./place.ts";
export { tril, triu } from "./triangle.ts";

/**
 * Constant padding in PyTorch's order: [before, after] of the last axis, then of the one before it, and so on.
 * Counts must not be negative.
 */
export function pad(x: Tensor, counts: readonly number[], value = 0): Tensor {
  const rank = rankOf("pad", x);
  checkList("pad", "counts", counts);
  if (
    counts.length % 2 !== 0 ||
    counts.length > 2 * rank ||
    counts.some((n) => !Number.isInteger(n) || n < 0)
  ) {
    throw opError("pad", [x], `expected pairs of counts for at most ${rank} axes, got [${counts}]`);
  }
  const before = x.shape.map((_, axis) => counts[2 * (rank - 1 - axis)] ?? 0);
  const shape = x.shape.map(
    (extent, axis) => before[axis] + extent + (counts[2 * (rank - 1 - axis) + 1] ?? 0),
  );
  return place(
    x,
    shape,
    before,
    x.shape.map(() => 1),
    value,
  );
}
