import { persist } from "../../core/scope.ts";
import { numel, type Shape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { adam8bitShapes, adam8bitStep, adam8bitTable, type Hyper } from "../../kernels/index.ts";
import { type AdamOptions, AdamW, adamHyper } from "./adam.ts";
import { BaseOptimizer, named, type Parameters, type Update } from "./optimizer.ts";
import { SplitOptimizer } from "./split.ts";

export interface AdamW8bitOptions extends AdamOptions {
  /** Parameters with fewer values keep their means in f32; default 4096. */
  min8bitSize?: number;
}

/** AdamW whose two means take 8 bits each, in blocks of 256 (Dettmers et al. 2022), as bitsandbytes' AdamW8bit. */
export class AdamW8bit extends SplitOptimizer {
  constructor(parameters: Parameters, { min8bitSize = 4096, ...options }: AdamW8bitOptions = {}) {
    super(
      parameters,
      ({ size }) => size >= min8bitSize,
      (own) => new Blockwise(own, options),
      (own) => new AdamW(own, options),
    );
  }
}

class Blockwise extends BaseOptimizer<AdamOptions> {
  protected override readonly writesHalves = false;
  readonly #table: Tensor;

  constructor(parameters: Parameters, options: AdamOptions) {
    super(parameters, { lr: 1e-3, weightDecay: 0.01, ...options }, statesOf, ["betas", "eps"]);
    this.#table = persist(adam8bitTable(named(parameters).values().next().value!.device));
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    return adamHyper(this.options, lr, step);
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    for (const {
      param,
      grad,
      states: [codes, absmax],
    } of updates)
      adam8bitStep({ table: this.#table, param, grad, codes, absmax }, hyper, scale);
  }
}

function statesOf(shape: Shape) {
  const { codes, absmax } = adam8bitShapes(numel(shape));
  return { means_8bit: { codes }, means_absmax: absmax };
}
