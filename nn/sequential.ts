import type { Tensor } from "../core/tensor.ts";
import { Module } from "./module.ts";

/** A module with a `forward` of one tensor, or a function such as `tanh`. */
export type Layer = { forward(x: Tensor): Tensor } | ((x: Tensor) => Tensor);

/** Applies layers one after the other: `new Sequential(new Linear(2, 8), tanh, new Linear(8, 1))`. */
export class Sequential extends Module {
  readonly layers: readonly Layer[];

  constructor(...layers: Layer[]) {
    super();
    this.layers = layers;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((y, layer) => (typeof layer === "function" ? layer(y) : layer.forward(y)), x);
  }
}
