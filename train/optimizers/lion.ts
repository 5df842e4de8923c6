import type { Tensor } from "../../core/tensor.ts";
import { type Hyper, lionStep } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface LionOptions extends OptimizerOptions {
  /** Weight of the momentum in the update, and its memory; default 0.9, 0.99. */
  betas?: readonly [number, number];
}

/**
 * Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms): the sign of an interpolated momentum. Its
 * authors use a learning rate 3 to 10 times lower than AdamW's, and as much more weight decay.
 */
export class Lion extends BaseOptimizer<LionOptions> {
  constructor(parameters: Parameters, options: LionOptions = {}) {
    super(parameters, { lr: 1e-4, ...options }, ["exp_avg"], ["betas"]);
  }

  protected hyper(lr: number): Partial<Hyper> {
    const { betas: [beta1, beta2] = [0.9, 0.99] } = this.options;
    return { lr, beta1, one_minus_beta1: 1 - beta1, beta2, one_minus_beta2: 1 - beta2 };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    lionStep(updates, hyper, scale);
  }
}
