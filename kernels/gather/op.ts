import { type DType, integerRange, isFloat } from "../../core/dtype.ts";
import { describe, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { broadcastShapes, normalizeDim, numel, rankOf, type Shape, sameShape } from "../../core/shape.ts";
import { apply, full, type Tensor } from "../../core/tensor.ts";
import { add, div, maximum, mul } from "../elementwise/index.ts";
import { embedding, embeddingBackwardOp } from "../embedding/op.ts";
import { cat } from "../pad/index.ts";
import { expand, flatten, narrow, reshape, transpose } from "../views/index.ts";
import { gatherOp, type Reduction, scattered } from "./ops.ts";

/** `x` cut down to the extents of `index` on every axis but `axis`. */
function cutTo(x: Tensor, index: Tensor, axis: number): Tensor {
  let out = x;
  index.shape.forEach((extent, i) => {
    if (i !== axis && extent < out.shape[i]) out = narrow(out, i, 0, extent);
  });
  return out;
}

/** `t` with `axis` last, or back. */
const last = (t: Tensor, axis: number) => (axis === t.rank - 1 ? t : transpose(t, axis, -1));

/** torch.gather: y[i][j] = x[i][index[i][j]] along `dim`; index has the rank of x. */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  rankOf("gather", index);
  const axis = normalizeDim("gather", dim, x);
  return last(apply(gatherOp, [last(cutTo(x, index, axis), axis), last(index, axis)], {})[0], axis);
}

/** NumPy's take_along_axis: `gather` whose other axes broadcast; without `dim` of the flattened tensors. */
export function takeAlongDim(x: Tensor, index: Tensor, dim?: number | null): Tensor {
  rankOf("takeAlongDim", index);
  if (dim === undefined || dim === null) return takeAlongDim(flatten(x), flatten(index), 0);
  const axis = normalizeDim("takeAlongDim", dim, x);
  if (index.rank !== x.rank || x.rank === 0)
    throw opError("takeAlongDim", [x, index], "expected an index of the rank of the input, with axes");
  const others = broadcastShapes(
    "takeAlongDim",
    [x, index].map((t) => t.shape.with(axis, 1)),
  );
  const wide = (t: Tensor) => expand(t, others.with(axis, t.shape[axis]));
  return gather(wide(x), axis, wide(index));
}

function scatterAlong(
  name: string,
  x: Tensor,
  dim: number,
  index: Tensor,
  src: Tensor,
  by: Reduction,
): Tensor {
  for (const t of [index, src]) rankOf(name, t);
  const axis = normalizeDim(name, dim, x);
  if (index.rank !== x.rank || src.rank !== x.rank)
    throw opError(name, [x, index, src], "expected an index and a source of the rank of the input");
  const beside = index.shape.findIndex((extent, i) => i !== axis && extent < x.shape[i]);
  if (beside < 0) {
    const part = narrow(
      cutTo(src, index, axis),
      axis,
      0,
      Math.min(index.shape[axis] ?? 0, src.shape[axis] ?? 0),
    );
    return last(scattered(last(x, axis), last(index, axis), last(part, axis), by), axis);
  }
  // The index reaches only the first slices of this axis.
  const extent = index.shape[beside];
  const reached = scatterAlong(name, narrow(x, beside, 0, extent), axis, index, src, by);
  return cat([reached, narrow(x, beside, extent, x.shape[beside] - extent)], beside);
}

/**
 * torch.scatter: x with src[i][j] written to [index[i][j]] along `dim`, the last of several for one place; a number is
 * written to all. On every axis the index is no longer than the source, and than x on the axes beside `dim`.
 */
export function scatter(x: Tensor, dim: number, index: Tensor, src: Tensor | number): Tensor {
  rankOf("scatter", index);
  rankOf("scatter", x);
  const values = typeof src === "number" ? full(index.shape, src, x.dtype, x.device) : src;
  return scatterAlong("scatter", x, dim, index, values, "replace");
}

/** torch.scatter_add: x with src[i][j] added at [index[i][j]] along `dim`, in order; extents as in `scatter`. */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  return scatterAlong("scatter_add", x, dim, index, src, "add");
}

/** How values that meet in one place become one. */
export type ScatterReduction = "sum" | "prod" | "mean" | "amax" | "amin";

/**
 * torch.scatter_reduce: the values of src that `index` sends to one place along `dim`, and what x has there unless
 * `includeSelf` is false, are reduced to one, in order. Places that get none keep x. Ties share the gradient evenly; there
 * is no second derivative of "prod". Means are those of floats.
 */
export function scatterReduce(
  x: Tensor,
  dim: number,
  index: Tensor,
  src: Tensor,
  reduce: ScatterReduction,
  includeSelf = true,
): Tensor {
  if (!["sum", "prod", "mean", "amax", "amin"].includes(reduce))
    throw new KilnError(
      `scatterReduce: reduce is ${describe(reduce)}; expected sum, prod, mean, amax or amin`,
    );
  rankOf("scatterReduce", x);
  rankOf("scatterReduce", index);
  const by = reduce === "sum" || reduce === "mean" ? "add" : reduce;
  const start = includeSelf ? x : scatter(x, dim, index, neutral(by, x.dtype));
  const reduced = scatterAlong("scatterReduce", start, dim, index, src, by);
  if (reduce !== "mean") return reduced;
  if (!isFloat(x.dtype)) throw opError("scatterReduce", [x], "means are those of floats; cast it");
  const own = full(x.shape, includeSelf ? 1 : 0, x.dtype, x.device);
  const count = scatterAdd(own, dim, index, full(index.shape, 1, x.dtype, x.device));
  return div(reduced, maximum(count, 1));
}

/** What leaves every value of the dtype as it is. */
function neutral(by: Reduction, dtype: DType): number {
  if (by === "add") return 0;
  if (by === "prod") return 1;
  if (isFloat(dtype)) return by === "amax" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  const { low, high } = integerRange[dtype === "u32" ? "u32" : "i32"];
  return by === "amax" ? low : high;
}

/** A vector of indices along `axis` as an index of the given shape. */
function along(name: string, index: Tensor, axis: number, shape: Shape): Tensor {
  if (rankOf(name, index) !== 1 || shape.length === 0)
    throw opError(name, [index], "expected a vector of indices and a tensor with axes");
  const column = shape.map((_, i) => (i === axis ? index.size : 1));
  return expand(reshape(index, column), shape.with(axis, index.size));
}

/** torch.index_add: x with alpha * src[i] added to its slice index[i] along `dim`, for each i in order. */
export function indexAdd(x: Tensor, dim: number, index: Tensor, src: Tensor, alpha = 1): Tensor {
  rankOf("indexAdd", src);
  const axis = normalizeDim("indexAdd", dim, x);
  const full = along("indexAdd", index, axis, x.shape);
  if (!sameShape(full.shape, src.shape))
    throw opError("indexAdd", [x, index, src], "expected a source with a slice for each index");
  const scaled = alpha === 1 ? src : mul(src, alpha);
  if (!isFloat(x.dtype)) return scatterAdd(x, axis, full, scaled);
  // In parallel: rows sorted by where they go.
  const front = transpose(scaled, 0, axis);
  const rows = reshape(front, [index.size, numel(front.shape.slice(1))]);
  const sums = apply(embeddingBackwardOp, [rows, index], { vocabulary: x.shape[axis] })[0];
  return add(x, transpose(reshape(sums, [x.shape[axis], ...front.shape.slice(1)]), 0, axis));
}

/** torch.index_copy: x with src[i] in place of its slice index[i] along `dim`; the last of several stays. */
export function indexCopy(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  const axis = normalizeDim("indexCopy", dim, x);
  return scatter(x, axis, along("indexCopy", index, axis, x.shape), src);
}

/** torch.index_select: the slices `index` (rank 1) of x along `dim`. */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  const axis = normalizeDim("index_select", dim, x);
  const front = transpose(x, 0, axis);
  const rows = reshape(front, [front.shape[0], numel(front.shape.slice(1))]);
  const picked = isFloat(x.dtype)
    ? embedding(index, rows)
    : gather(rows, 0, expand(reshape(index, [index.size, 1]), [index.size, rows.shape[1]]));
  return transpose(reshape(picked, [index.size, ...front.shape.slice(1)]), 0, axis);
}
