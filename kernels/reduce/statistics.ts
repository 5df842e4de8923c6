import { isFloat } from "../../core/dtype.ts";
import { describe, KilnError } from "../../core/errors.ts";
import { normalizeDims, numel } from "../../core/shape.ts";
import { noGrad } from "../../core/tape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { add, cast, exp, isfinite, log, square, sub, where } from "../elementwise/index.ts";
import { dropAxes } from "../views/axes.ts";
import { amax } from "./extremes.ts";
import { sumKeeping } from "./sum.ts";

type Dims = number | readonly number[] | null;

const extentOf = (x: Tensor, dims: readonly number[]) => numel(dims.map((d) => x.shape[d]));

/** Arithmetic mean over `dim` (one, several, or all when absent); integers give f32. */
export function mean(x: Tensor, dim?: Dims, keepdim = false): Tensor {
  const dims = normalizeDims("mean", dim, x);
  const kept = sumKeeping(isFloat(x.dtype) ? x : cast(x, "f32"), dims, 1 / extentOf(x, dims));
  return keepdim ? kept : dropAxes(kept, dims);
}

/** x minus its mean over `dims`, in two rounds: the second removes the rounding error of the first mean. */
export function centre(x: Tensor, dims: readonly number[]): Tensor {
  const near = sub(x, mean(x, dims, true));
  return sub(near, mean(near, dims, true));
}

/**
 * Variance over `dim`: the sum of squared distances from the mean over n - correction (1, Bessel's, by default;
 * 0 for the population's). Two passes over the data, so that a large mean costs no digits.
 */
export function variance(x: Tensor, dim?: Dims, correction = 1, keepdim = false): Tensor {
  const dims = normalizeDims("variance", dim, x);
  if (typeof correction !== "number")
    throw new KilnError(
      `variance: the correction is ${describe(correction)}; expected a number before keepdim`,
    );
  const kept = sumKeeping(square(centre(x, dims)), dims, 1 / Math.max(0, extentOf(x, dims) - correction));
  return keepdim ? kept : dropAxes(kept, dims);
}

/** log(sum(exp(x))) over `dim`, shifted by the maximum so that it never overflows; its derivative is softmax. Integers give f32. */
export function logsumexp(x: Tensor, dim?: Dims, keepdim = false): Tensor {
  const dims = normalizeDims("logsumexp", dim, x);
  const floats = isFloat(x.dtype) ? x : cast(x, "f32");
  const shift = noGrad(() => {
    const top = amax(floats, dims, true);
    // All -infinity: there is nothing to shift by.
    return where(isfinite(top), top, 0);
  });
  const kept = add(log(sumKeeping(exp(sub(floats, shift)), dims)), shift);
  return keepdim ? kept : dropAxes(kept, dims);
}
