import type { Tensor } from "../../core/tensor.ts";
import { assignInto } from "../assign/op.ts";
import {
  div,
  eq,
  lerp,
  maximum,
  minimum,
  mul,
  pow,
  rsqrt,
  sqrt,
  square,
  sub,
  where,
} from "../elementwise/index.ts";
import { mean } from "../reduce/index.ts";
import { type Hyper, hyperNames } from "./shared.ts";

/** A parameter as `adafactorStep` takes it; all f32 but for the gradient. */
export interface AdafactorSlot {
  /** Updated in place. */
  param: Tensor;
  /** Shaped as the parameter. */
  grad: Tensor;
  /**
   * Running means of squared gradients, updated in place: of a matrix (or a stack of them, [..., rows, columns]) those of
   * its rows [..., rows, 1] and columns [..., 1, columns]; of a vector or scalar one tensor of its shape.
   */
  variances: readonly Tensor[];
}

export interface AdafactorOptions {
  /** The mean of squares moves by step^beta2_decay. */
  beta2_decay: number;
  /** Lower bounds: of the row means and (squared) of the variance, and of the parameter's root mean square. */
  eps: readonly [number, number];
  /** The update's root mean square above which it is scaled down. */
  clip: number;
}

/**
 * One step of Adafactor (Shazeer & Stern 2018) on one parameter, in place, as torch.optim.Adafactor: composed of ordinary
 * ops. Reads lr, weight_decay and step from `hyper`; a scale of 0 leaves everything as it is.
 */
export function adafactorStep(
  { param, grad, variances }: AdafactorSlot,
  hyper: Tensor,
  scale: Tensor,
  { beta2_decay, eps, clip }: AdafactorOptions,
): void {
  const value = (name: keyof Hyper) => hyper.asStrided([], [], hyper.offset + hyperNames.indexOf(name));
  const factor = scale.asStrided([], [], scale.offset);
  const skipped = eq(factor, 0);
  const write = (target: Tensor, updated: Tensor) => assignInto(target, where(skipped, target, updated));
  const rms = (x: Tensor) => sqrt(mean(square(x)));

  const g = mul(grad, factor);
  const squares = square(g);
  const means = param.rank > 1 ? [mean(squares, -1, true), mean(squares, -2, true)] : [squares];
  const weight = pow(value("step"), beta2_decay);
  const moved = means.map((each, i) => lerp(variances[i], each, weight));
  const [rows, columns] = moved;
  const variance = columns ? div(mul(rows, columns), maximum(mean(rows, -2, true), eps[0])) : rows;
  const update = mul(g, rsqrt(maximum(variance, eps[0] ** 2)));
  const relative = mul(maximum(rms(param), eps[1]), minimum(value("lr"), rsqrt(value("step"))));
  const rate = div(relative, maximum(div(rms(update), clip), 1));
  const decayed = mul(param, sub(1, mul(value("lr"), value("weight_decay"))));
  write(param, sub(decayed, mul(update, rate)));
  for (const [i, each] of moved.entries()) write(variances[i], each);
}
