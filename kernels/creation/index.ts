import { device as currentDevice } from "../../core/device.ts";
import { type DType, integerRange } from "../../core/dtype.ts";
import { describe, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { checkList, checkWhole, normalizeDim, rankOf } from "../../core/shape.ts";
import { full, recordView, type Tensor, tensor } from "../../core/tensor.ts";
import { cast, eq, where } from "../elementwise/index.ts";
import { isIndex } from "../embedding/op.ts";
import { place } from "../pad/place.ts";
import { expand, narrow, permute, reshape, unsqueeze } from "../views/index.ts";

// Ranges are computed on the host, exactly rounded, and uploaded; inside a compiled step they are constants of the plan.

function checkNumbers(op: string, values: Record<string, number>): void {
  for (const [what, value] of Object.entries(values))
    if (!Number.isFinite(value))
      throw new KilnError(`${op}: ${what} is ${describe(value)}; expected a finite number`);
}

/**
 * The numbers from `start` up to but not including `end`, `step` apart; `arange(n)` counts from 0. The dtype is i32 where
 * all three are whole numbers, else f32, unless given.
 */
export function arange(start: number, end?: number, step = 1, dtype?: DType, on = currentDevice()): Tensor {
  if (end === undefined) return arange(0, start, step, dtype, on);
  checkNumbers("arange", { start, end, step });
  const count = Math.ceil((end - start) / step);
  if (!(count >= 0))
    throw new KilnError(
      `arange: a step of ${step} does not lead from ${start} to ${end}; give it the other sign`,
    );
  checkWhole("arange", "the number of elements", count, 0, 2 ** 31 - 1);
  const { low, high } = integerRange.i32;
  const whole = [start, end, step].every((v) => Number.isInteger(v) && v >= low && v <= high);
  const values = Array.from({ length: count }, (_, i) => start + i * step);
  return tensor(values, [count], dtype ?? (whole ? "i32" : "f32"), on);
}

/** `count` numbers from `start` to `end`, both included, at equal distances. */
export function linspace(
  start: number,
  end: number,
  count: number,
  dtype: DType = "f32",
  on = currentDevice(),
): Tensor {
  checkNumbers("linspace", { start, end });
  checkWhole("linspace", "the number of elements", count, 0, 2 ** 31 - 1);
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  // Counted from the nearer end, so that both are met exactly.
  const value = (i: number) => (2 * i < count ? start + i * step : end - (count - 1 - i) * step);
  return tensor(
    Array.from({ length: count }, (_, i) => value(i)),
    [count],
    dtype,
    on,
  );
}

/** Whether column - row is `offset`, as bool [rows, columns]. */
const onDiagonal = (rows: number, columns: number, offset: number, on = currentDevice()) =>
  eq(unsqueeze(arange(offset, rows + offset, 1, "i32", on), 1), arange(0, columns, 1, "i32", on));

/** The matrix [rows, columns] with ones on its main diagonal and zeros elsewhere. */
export function eye(rows: number, columns = rows, dtype: DType = "f32"): Tensor {
  checkWhole("eye", "the number of rows", rows, 0);
  checkWhole("eye", "the number of columns", columns, 0);
  return cast(onDiagonal(rows, columns, 0), dtype);
}

/** A tensor of `value` with the shape and the device of x, and its dtype unless another is given. */
export function fullLike(x: Tensor, value: number, dtype?: DType): Tensor {
  rankOf("fullLike", x);
  return full(x.shape, value, dtype ?? x.dtype, x.device);
}

/** A tensor of zeros with the shape and the device of x, and its dtype unless another is given. */
export const zerosLike = (x: Tensor, dtype?: DType) => fullLike(x, 0, dtype);

/** A tensor of ones with the shape and the device of x, and its dtype unless another is given. */
export const onesLike = (x: Tensor, dtype?: DType) => fullLike(x, 1, dtype);

/** ids [...] (i32 or u32) -> [..., classes]: 1 at each id, 0 elsewhere. A row whose id is outside 0 to classes - 1 is all 0. */
export function oneHot(ids: Tensor, classes: number, dtype: DType = "f32"): Tensor {
  rankOf("oneHot", ids);
  if (!isIndex(ids)) throw opError("oneHot", [ids], "expected i32 or u32 ids");
  checkWhole("oneHot", "the number of classes", classes, 0);
  return cast(eq(unsqueeze(ids, -1), arange(0, classes, 1, ids.dtype, ids.device)), dtype);
}

/** One tensor of rank n for each of n vectors, repeated along the axes of the others: "ij" as NumPy's matrices, "xy" with the first two axes exchanged. */
export function meshgrid(vectors: readonly Tensor[], indexing: "ij" | "xy" = "ij"): Tensor[] {
  checkList("meshgrid", "vectors", vectors);
  for (const t of vectors)
    if (rankOf("meshgrid", t) !== 1) throw opError("meshgrid", [t], "expected vectors");
  if (indexing !== "ij" && indexing !== "xy")
    throw new KilnError(`meshgrid: indexing is "ij" or "xy", not ${describe(indexing)}`);
  const order = vectors.map((_, i) => i);
  if (indexing === "xy" && order.length > 1) order.splice(0, 2, 1, 0);
  const shape = order.map((i) => vectors[i].size);
  return vectors.map((t, i) =>
    expand(
      reshape(
        t,
        order.map((k) => (k === i ? t.size : 1)),
      ),
      shape,
    ),
  );
}

/**
 * The elements at which the index along `dim2` less that along `dim1` is `offset`, as the last axis of a view: the other
 * axes keep their order. PyTorch's diagonal.
 */
export function diagonal(x: Tensor, offset = 0, dim1 = 0, dim2 = 1): Tensor {
  const [a, b] = [normalizeDim("diagonal", dim1, x), normalizeDim("diagonal", dim2, x)];
  checkWhole("diagonal", "the offset", offset);
  if (a === b || x.rank < 2) throw opError("diagonal", [x], "expected two different axes");
  const rows = Math.max(0, -offset);
  const columns = Math.max(0, offset);
  const n = Math.max(0, Math.min(x.shape[a] - rows, x.shape[b] - columns));
  const square = n === 0 ? narrow(narrow(x, a, 0, 0), b, 0, 0) : narrow(narrow(x, a, rows, n), b, columns, n);
  const others = x.shape.map((_, i) => i).filter((i) => i !== a && i !== b);
  const t = permute(square, [...others, a, b]);
  const step = t.strides[t.rank - 2] + t.strides[t.rank - 1];
  const view = t.asStrided(t.shape.slice(0, -1), [...t.strides.slice(0, -2), step], t.offset);
  return recordView(view, t, "diagonal", (dy) => where(onDiagonal(n, n, 0, dy.device), unsqueeze(dy, -1), 0));
}

/** A vector as the diagonal of a square matrix of zeros, or the diagonal of a matrix; `offset` counts from the main one, positive above it. */
export function diag(x: Tensor, offset = 0): Tensor {
  const rank = rankOf("diag", x);
  if (rank === 2) return diagonal(x, offset);
  checkWhole("diag", "the offset", offset);
  if (rank !== 1) throw opError("diag", [x], "expected a vector or a matrix");
  const n = x.size + Math.abs(offset);
  const start = offset >= 0 ? offset : -offset * n;
  return reshape(place(x, [n * n], [x.size === 0 ? 0 : start], [n + 1], 0), [n, n]);
}
