import { isFloat } from "../../core/dtype.ts";
import { describe, KilnError } from "../../core/errors.ts";
import { checkWhole, normalizeDim, normalizeDims, rankOf } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { abs, cast, eq, isnan, mul, ne, sqrt, square, where } from "../elementwise/index.ts";
import { pad } from "../pad/index.ts";
import { flatten, narrow, reshape, squeeze } from "../views/index.ts";
import { amax, amin } from "./extremes.ts";
import { sort } from "./sort.ts";
import { variance } from "./statistics.ts";
import { sum } from "./sum.ts";

// Reductions made of others.

type Dims = number | readonly number[] | null;

/** The number of elements other than 0 over `dim` (one, several, or all when absent), i32. */
export function countNonzero(x: Tensor, dim?: Dims, keepdim = false): Tensor {
  return sum(ne(x, 0), normalizeDims("countNonzero", dim, x), keepdim);
}

/** Whether any element over `dim` differs from 0 (bool); NaN does. */
export const any = (x: Tensor, dim?: Dims, keepdim = false) =>
  ne(sum(ne(x, 0), normalizeDims("any", dim, x), keepdim), 0);

/** Whether all elements over `dim` differ from 0 (bool); NaN does. */
export const all = (x: Tensor, dim?: Dims, keepdim = false) =>
  eq(sum(eq(x, 0), normalizeDims("all", dim, x), keepdim), 0);

/** sqrt(x) whose derivative at 0 is 0, as PyTorch has it for `std` and `norm`. */
function rootOfSum(x: Tensor): Tensor {
  const none = eq(x, 0);
  return where(none, 0, sqrt(where(none, 1, x)));
}

/** Standard deviation over `dim`: the root of `variance`, with its arguments. The derivative is 0 where all elements are equal. */
export function std(x: Tensor, dim?: Dims, correction = 1, keepdim = false): Tensor {
  normalizeDims("std", dim, x);
  return rootOfSum(variance(x, dim, correction, keepdim));
}

/** What `norm` takes as p: "fro" is 2. */
export type NormOrder = number | "fro";

/**
 * The vector norm of the elements over `dim` (one, several, or all when absent): p = 1 sums |x|, 2 (also called "fro", for
 * matrices) is the root of the sum of squares, Infinity and -Infinity are the largest and the smallest |x|, 0 counts the
 * elements other than 0. Integers give f32. The derivative of the 2-norm at 0 is 0.
 */
export function norm(x: Tensor, p: NormOrder = 2, dim?: Dims, keepdim = false): Tensor {
  const dims = normalizeDims("norm", dim, x);
  const floats = isFloat(x.dtype) ? x : cast(x, "f32");
  if (p === 2 || p === "fro") return rootOfSum(sum(square(floats), dims, keepdim));
  if (p === 1) return sum(abs(floats), dims, keepdim);
  if (p === 0) return cast(countNonzero(floats, dims, keepdim), floats.dtype);
  if (p === Number.POSITIVE_INFINITY) return amax(abs(floats), dims, keepdim);
  if (p === Number.NEGATIVE_INFINITY) return amin(abs(floats), dims, keepdim);
  throw new KilnError(`norm: p is ${describe(p)}; expected 0, 1, 2, "fro", Infinity or -Infinity`);
}

/** Running products along `dim`: y[i] = x[0] ... x[i]. Bool counts as i32; integers wrap around at 2^32. */
export function cumprod(x: Tensor, dim: number): Tensor {
  const axis = normalizeDim("cumprod", dim, x);
  const n = x.shape[axis] ?? 1;
  let y = x.dtype === "bool" ? cast(x, "i32") : x;
  // Each round doubles the number of factors. No quotients: the derivative is right where elements are 0, too.
  for (let reach = 1; reach < n; reach *= 2) {
    const before = [...new Array<number>(2 * (x.rank - 1 - axis)).fill(0), reach, 0];
    y = mul(y, pad(narrow(y, axis, 0, n - reach), before, 1));
  }
  return y;
}

/** The middle element over `dim`, or of all; the lower one of two, and NaN where any is. Its derivative goes to that element. */
export function median(x: Tensor, dim?: number | null, keepdim = false): Tensor {
  rankOf("median", x);
  if (dim === undefined || dim === null) return reshape(median(flatten(x), 0), []);
  const axis = normalizeDim("median", dim, x);
  const n = x.shape[axis] ?? 1;
  checkWhole("median", "the number of elements", n, 1);
  if (x.rank === 0) return x;
  const { values } = sort(x, axis);
  const last = narrow(values, axis, n - 1, 1);
  const middle = narrow(values, axis, Math.floor((n - 1) / 2), 1);
  const kept = where(isnan(last), last, middle);
  return keepdim ? kept : squeeze(kept, axis);
}
