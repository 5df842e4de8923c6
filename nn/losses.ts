import { KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  add,
  bceWithLogits,
  clamp,
  div,
  exp,
  gt,
  mul,
  sqrt,
  square,
  sub,
  where,
} from "../kernels/elementwise/index.ts";
import { mean, sum } from "../kernels/reduce/index.ts";
import { logSoftmax } from "../kernels/softmax/op.ts";

/** Mean of (input - target)^2 over all elements. */
export function mseLoss(input: Tensor, target: Tensor): Tensor {
  return mean(square(sub(input, target)));
}

/** Mean binary cross-entropy of sigmoid(input) against targets in [0, 1], safe for logits of any size. */
export function bceWithLogitsLoss(input: Tensor, target: Tensor): Tensor {
  return mean(bceWithLogits(input, target));
}

/**
 * KL divergence of softmax(input / T) from softmax(target / T) over the last axis, summed, divided by the first
 * extent and multiplied by T^2, which keeps gradients of the size they have at T = 1 (Hinton et al. 2015).
 * Both are logits.
 */
export function klDivLoss(input: Tensor, target: Tensor, temperature = 1): Tensor {
  if (!(temperature > 0))
    throw new KilnError(`klDivLoss: the temperature is ${temperature}; expected a number above 0`);
  const logInput = logSoftmax(mul(input, 1 / temperature));
  const logTarget = logSoftmax(mul(target, 1 / temperature));
  const terms = mul(exp(logTarget), sub(logTarget, logInput));
  return mul(sum(terms), temperature ** 2 / input.shape[0]);
}

/**
 * Mean over rows of 1 - cos(input, other) where `label` is 1 and max(0, cos - margin) where it is -1; without
 * labels every pair should agree. Vectors lie on the last axis.
 */
export function cosineEmbeddingLoss(input: Tensor, other: Tensor, label?: Tensor, margin = 0): Tensor {
  const length = (t: Tensor) => add(sum(square(t), -1), 1e-12);
  const cosine = div(sum(mul(input, other), -1), sqrt(mul(length(input), length(other))));
  const alike = sub(1, cosine);
  if (!label) return mean(alike);
  const apart = clamp(sub(cosine, margin), 0, Number.POSITIVE_INFINITY);
  return mean(where(gt(label, 0), alike, apart));
}
