import type { Tensor } from "../../core/tensor.ts";
import { type Hyper, sgdStep } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface SgdOptions extends OptimizerOptions {
  /** Default 0: none. */
  momentum?: number;
  /** Share of a new gradient that the momentum leaves out; default 0. */
  dampening?: number;
  nesterov?: boolean;
}

/** Stochastic gradient descent with momentum, as torch.optim.SGD. */
export class Sgd extends BaseOptimizer<SgdOptions> {
  constructor(parameters: Parameters, options: SgdOptions = {}) {
    super(parameters, { lr: 1e-3, ...options }, ["momentum_buffer"], ["momentum", "dampening", "nesterov"]);
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    const { momentum = 0, dampening = 0 } = this.options;
    const later = momentum === 0 ? 1 : 1 - dampening;
    return { lr, momentum, fresh: step === 1 ? 1 : later, later_fresh: later };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    sgdStep(updates, hyper, scale, this.options.nesterov);
  }
}
