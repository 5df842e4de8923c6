import { dependsOn } from "../core/compile.ts";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import {
  activate,
  add,
  assignInto,
  cast,
  div,
  embedding,
  type LinearOptions,
  linear,
  matmul,
  mul,
  reshape,
  sqrt,
  square,
  sub,
  sum,
  transpose,
} from "../kernels/index.ts";
import type { PassDropout } from "./dropout.ts";
import { constantInit, normalInit, uniformInit } from "./init.ts";
import { Module, Parameter, withoutValues } from "./module.ts";

/** What a product is run with. */
export interface ProductOptions extends Omit<LinearOptions, "scale"> {
  /** In training; an adapter drops out of its own input alone. */
  dropout?: PassDropout | undefined;
}

let off = false;

/**
 * What `body` returns where layers compute with their own matrices alone, whatever adapter they have: what a model says beside
 * its adapter in one compiled step. Parameters that an adapter trains whole keep its values.
 */
export function withoutAdapters<T>(body: () => T): T {
  const before = off;
  off = true;
  try {
    return body();
  } finally {
    off = before;
  }
}

/** A layer whose matrix an adapter may change. */
export abstract class Adaptable extends Module {
  #adapter: LoraLayer | null = null;

  /** Null: the layer computes with its own matrix alone. */
  get adapter(): LoraLayer | null {
    return off ? null : dependsOn(() => this.#adapter);
  }

  set adapter(adapter: LoraLayer | null) {
    this.#adapter = adapter;
  }

  /** Numbers of outputs and of inputs. */
  abstract get features(): readonly [outputs: number, inputs: number];

  /** The matrix as [out_features, in_features], however it is stored. */
  abstract matrix(): Tensor;
}

/** A layer that multiplies by its matrix. */
export interface Projection extends Adaptable {
  readonly bias: Parameter | null;
  /** activation(x W^T + bias) + residual with the layer's own matrix W. */
  product(x: Tensor, bias: Tensor | null, options: LinearOptions): Tensor;
}

/** y = activation(x W'^T + bias) + residual, where W' is the layer's matrix with its adapter, if it has one. */
export function project(layer: Projection, x: Tensor, options: ProductOptions = {}): Tensor {
  const { dropout, ...rest } = options;
  return layer.adapter?.project(layer, x, options) ?? layer.product(x, layer.bias, rest);
}

export interface LoraOptions {
  rank: number;
  alpha: number;
  /** alpha is divided by sqrt(rank) instead of rank (Kalajdzievski 2023). */
  rslora: boolean;
  /** Each row of the changed matrix has a length of its own that is trained (Liu et al. 2024). */
  dora: boolean;
  /** Share of the adapter's input that training drops out. */
  dropout: number;
}

/**
 * A low-rank change of a matrix W [out, in]: W' = W + s B A with s = alpha / rank (Hu et al. 2022, LoRA); with `dora`
 * W' = m (W + s B A) / ||W + s B A||, row by row. The numbers are those of PEFT.
 */
export class LoraLayer {
  /** A [rank, in]. */
  readonly a: Parameter;
  /** B [out, rank]. */
  readonly b: Parameter;
  /** m [out], of DoRA. */
  readonly magnitude: Parameter | null;
  readonly #scale: number;
  readonly #dropout: number;

  /** Without values: `init` or writing the parameters gives them. */
  constructor(
    [outFeatures, inFeatures]: readonly [number, number],
    { rank, alpha, rslora, dora, dropout }: LoraOptions,
  ) {
    const make = (...shape: number[]) => withoutValues(() => Parameter.make(shape, zeros));
    this.a = make(rank, inFeatures);
    this.b = make(outFeatures, rank);
    this.magnitude = dora ? make(outFeatures) : null;
    this.#scale = alpha / (rslora ? Math.sqrt(rank) : rank);
    this.#dropout = dropout;
  }

  /**
   * Values that change nothing yet: A uniform in +-1 / sqrt(in) and B 0; for an embedding A 0 and B standard normal, as PEFT
   * has it. They depend on the seed and the layer's name alone.
   */
  init(layer: Adaptable, kind: "product" | "embedding", seed: number, name: string): void {
    if (kind === "product") {
      uniformInit(this.a, 1 / Math.sqrt(layer.features[1]), seed, `${name}.lora_A`);
      constantInit(this.b, 0);
    } else {
      constantInit(this.a, 0);
      normalInit(this.b, 1, seed, `${name}.lora_embedding_B`);
    }
    const { magnitude } = this;
    if (magnitude) scope(() => assignInto(magnitude, this.#lengths(layer)));
  }

  /** See `project`. The second product of a layer with DoRA and dropout is PEFT's: it scales what the adapter sees. */
  project(layer: Projection, x: Tensor, options: ProductOptions): Tensor {
    const { residual, activation, dropout, batchInvariant, outDtype } = options;
    const run = { batchInvariant, outDtype };
    const seen = dropout?.draw(x, this.#dropout) ?? x;
    const low = linear(seen, this.a.compute, null, { batchInvariant, scale: this.#scale }); // [..., rank]
    const change = (base: Tensor) => linear(low, this.b.compute, null, { ...run, residual: base });
    const finish = (y: Tensor) => {
      const active = activation ? activate(y, activation) : y;
      return residual ? add(active, residual) : active;
    };
    if (!this.magnitude) return finish(change(layer.product(x, layer.bias, run)));
    const base = layer.product(seen, null, run);
    const scaled = this.#rescale(change(base), layer);
    const kept = seen === x ? scaled : add(scaled, sub(layer.product(x, null, run), base));
    return finish(layer.bias ? add(kept, cast(layer.bias, kept.dtype)) : kept);
  }

  /** Rows of an embedding [..., D] with the adapter's change; `rows` are those of the layer's own matrix. */
  embed(layer: Adaptable, ids: Tensor, rows: Tensor): Tensor {
    const low = embedding(ids, transpose(this.a.compute, 0, 1)); // [..., rank]
    const options = { scale: this.#scale, residual: rows, batchInvariant: true };
    const changed = linear(low, this.b.compute, null, options);
    return this.magnitude ? this.#rescale(changed, layer) : changed;
  }

  /** W' of W, [out, in], f32. */
  merged(matrix: Tensor): Tensor {
    const changed = this.#changed(matrix);
    if (!this.magnitude) return changed;
    return mul(changed, reshape(div(this.magnitude, lengthsOf(changed)), [-1, 1]));
  }

  /** W + s B A, f32. */
  #changed(matrix: Tensor): Tensor {
    return add(cast(matrix, "f32"), matmul(this.b, this.a, { scale: this.#scale }));
  }

  /** Lengths [out] of the rows of W + s B A, which count as constants (Liu et al. 2024, 4.3). */
  #lengths(layer: Adaptable): Tensor {
    return noGrad(() => scope(() => lengthsOf(this.#changed(layer.matrix()))));
  }

  #rescale(y: Tensor, layer: Adaptable): Tensor {
    return cast(mul(cast(y, "f32"), div(this.magnitude!, this.#lengths(layer))), y.dtype);
  }
}

const lengthsOf = (matrix: Tensor) => sqrt(sum(square(matrix), 1));
