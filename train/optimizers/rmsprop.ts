import type { Tensor } from "../../core/tensor.ts";
import { type Hyper, rmspropStep } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface RmspropOptions extends OptimizerOptions {
  /** Memory of the mean of squared gradients; default 0.99. */
  alpha?: number;
  /** Default 1e-8. */
  eps?: number;
}

/** RMSprop (Hinton 2012), as torch.optim.RMSprop without momentum. */
export class Rmsprop extends BaseOptimizer<RmspropOptions> {
  constructor(parameters: Parameters, options: RmspropOptions = {}) {
    super(parameters, { lr: 1e-2, ...options }, ["square_avg"], ["alpha", "eps"]);
  }

  protected hyper(lr: number): Partial<Hyper> {
    const { alpha = 0.99, eps = 1e-8 } = this.options;
    return { lr, beta2: alpha, one_minus_beta2: 1 - alpha, eps };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    rmspropStep(updates, hyper, scale);
  }
}
