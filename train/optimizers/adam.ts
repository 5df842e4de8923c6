import type { Tensor } from "../../core/tensor.ts";
import { adamStep, type Hyper } from "../../kernels/index.ts";
import { BaseOptimizer, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";

export interface AdamOptions extends OptimizerOptions {
  /** Memory of the mean of gradients and of the mean of their squares; default 0.9, 0.999. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
}

/** The numbers of a step of Adam, from 1 on. */
export function adamHyper(options: AdamOptions, lr: number, step: number): Partial<Hyper> {
  const { betas: [beta1, beta2] = [0.9, 0.999], eps = 1e-8 } = options;
  return {
    lr,
    beta1,
    one_minus_beta1: 1 - beta1,
    beta2,
    one_minus_beta2: 1 - beta2,
    eps,
    bias1: 1 - beta1 ** step,
    root_bias2: Math.sqrt(1 - beta2 ** step),
  };
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW. */
export class AdamW extends BaseOptimizer<AdamOptions> {
  protected readonly decoupled: boolean = true;

  constructor(parameters: Parameters, options: AdamOptions = {}) {
    super(
      parameters,
      { lr: 1e-3, weightDecay: 0.01, ...options },
      ["exp_avg", "exp_avg_sq"],
      ["betas", "eps"],
    );
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    return adamHyper(this.options, lr, step);
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    adamStep(updates, hyper, scale, this.decoupled);
  }
}

/** Adam (Kingma & Ba 2015), as torch.optim.Adam: weight decay is added to the gradient. */
export class Adam extends AdamW {
  protected override readonly decoupled = false;

  constructor(parameters: Parameters, options: AdamOptions = {}) {
    super(parameters, { weightDecay: 0, ...options });
  }
}
