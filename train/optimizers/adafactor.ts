import type { Shape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { adafactorStep, type Hyper } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface AdafactorOptions extends OptimizerOptions {
  /** The mean of squares moves by step^beta2Decay; default -0.8. */
  beta2Decay?: number;
  /** Lower bounds of the means of squares, and of a parameter's root mean square; default f32's epsilon and 1e-3. */
  eps?: readonly [number, number];
  /** The root mean square above which an update is scaled down; default 1. */
  d?: number;
}

/**
 * Adafactor (Shazeer & Stern 2018), as torch.optim.Adafactor: of the squares of a matrix's gradients it keeps the means
 * of rows and columns alone. `lr` bounds a rate that is relative to the size of a parameter.
 */
export class Adafactor extends BaseOptimizer<AdafactorOptions> {
  protected override readonly writesHalves = false;

  constructor(parameters: Parameters, options: AdafactorOptions = {}) {
    super(parameters, { lr: 1e-2, ...options }, statesOf, ["beta2Decay", "eps", "d"]);
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    return { lr, step };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    const { beta2Decay: beta2_decay = -0.8, eps = [2 ** -23, 1e-3], d: clip = 1 } = this.options;
    for (const { param, grad, states: variances } of updates)
      adafactorStep({ param, grad, variances }, hyper, scale, { beta2_decay, eps, clip });
  }
}

function statesOf(shape: Shape): Record<string, Shape> {
  return shape.length > 1 ? { row_var: shape.with(-1, 1), col_var: shape.with(-2, 1) } : { variance: shape };
}
