import type { Tensor } from "../../core/tensor.ts";
import { type Hyper, rmspropStep } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface AdagradOptions extends OptimizerOptions {
  /** The rate of step t (from 0) is lr / (1 + t * lrDecay); default 0. */
  lrDecay?: number;
  /** Default 1e-10. */
  eps?: number;
}

/** Adagrad (Duchi et al. 2011), as torch.optim.Adagrad. */
export class Adagrad extends BaseOptimizer<AdagradOptions> {
  constructor(parameters: Parameters, options: AdagradOptions = {}) {
    super(parameters, { lr: 1e-2, ...options }, ["sum"], ["lrDecay", "eps"]);
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    const { lrDecay = 0, eps = 1e-10 } = this.options;
    const decayed = { lr: lr / (1 + (step - 1) * lrDecay), base_lr: lr, lr_decay: lrDecay };
    // RMSprop whose mean of squares is their sum.
    return { ...decayed, beta2: 1, one_minus_beta2: 1, eps };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    rmspropStep(updates, hyper, scale);
  }
}
