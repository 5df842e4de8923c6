import { describe, KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import { Module } from "./module.ts";

/** A layer of one input: a module, or a function such as `relu`. */
export type Layer = (Module & { forward(x: Tensor): Tensor }) | ((x: Tensor) => Tensor);

/**
 * torch.nn.Sequential: layers one after the other, `new Sequential(new Linear(2, 8), tanh, new Linear(8, 1))`. Functions
 * count, so that names of parameters are PyTorch's: here `0.weight`, `2.weight`.
 */
export class Sequential extends Module {
  readonly #layers: readonly Layer[];

  constructor(...layers: Layer[]) {
    super();
    for (const [i, layer] of layers.entries())
      if (!(layer instanceof Module) && typeof layer !== "function")
        throw new KilnError(
          `Sequential: layer ${i} is ${describe(layer)}; give modules or functions one after the other: new Sequential(a, relu, b)`,
        );
    this.#layers = layers;
    Object.assign(this, layers);
  }

  forward(x: Tensor): Tensor {
    return this.#layers.reduce((y, layer) => (layer instanceof Module ? layer.forward(y) : layer(y)), x);
  }
}
