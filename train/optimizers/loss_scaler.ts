import { persist } from "../../core/scope.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { copy, lossScalerNames, mul, reciprocal, updateLossScale } from "../../kernels/index.ts";

/** In the words of torch.amp.GradScaler, and with its defaults. */
export interface LossScaleOptions {
  init_scale?: number;
  growth_factor?: number;
  backoff_factor?: number;
  /** Updates without overflow after which the scale grows. */
  growth_interval?: number;
}

/** A scaler's numbers on the host. */
export type LossScalerValues = Record<(typeof lossScalerNames)[number], number>;

/**
 * Dynamic loss scaling (Micikevicius et al. 2018) that never asks the device: f16 derivatives would vanish without a
 * large factor and overflow with too large a one, so the loss is scaled, an update whose gradients overflow is skipped
 * and the factor shrinks, and after enough good updates it grows. All of it is one small tensor and one small kernel.
 */
export class LossScaler {
  /** f32, in the order of lossScalerNames; part of a checkpoint. */
  readonly state: Tensor;
  readonly #options: Required<LossScaleOptions>;

  constructor(options: LossScaleOptions = {}) {
    this.#options = {
      init_scale: 65536,
      growth_factor: 2,
      backoff_factor: 0.5,
      growth_interval: 2000,
      ...options,
    };
    this.state = persist(tensor([this.#options.init_scale, 0, 0, 0]));
  }

  /** The derivative of the scaled mean loss by the sum of losses, [1]. */
  upstream(inverseCount: Tensor): Tensor {
    return mul(this.#scale, inverseCount);
  }

  /** What takes the scale out of gradients, [1]. */
  unscale(): Tensor {
    return reciprocal(this.#scale);
  }

  /** Moves on by one update; `applied` is the scale that `globalNorm` gave, 0 where the update is skipped. */
  update(applied: Tensor): void {
    const { growth_factor: growth, backoff_factor: backoff, growth_interval: interval } = this.#options;
    updateLossScale(this.state, applied, { growth, backoff, interval });
  }

  /** The state as it is now, for reading later. */
  snapshot(): Tensor {
    return copy(this.state);
  }

  get #scale(): Tensor {
    return this.state.asStrided([1], [1], lossScalerNames.indexOf("loss_scale"));
  }
}

/** Waits for a snapshot's numbers. */
export async function readLossScaler(snapshot: Tensor): Promise<LossScalerValues> {
  const values = await snapshot.data();
  return Object.fromEntries(lossScalerNames.map((name, i) => [name, values[i]])) as LossScalerValues;
}
