import { Ambient } from "../core/ambient.ts";
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
  loraRows,
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

/** What changes the results of layers. */
export interface LayerAdapter {
  /** See `project`. */
  project(layer: Projection, x: Tensor, options: ProductOptions): Tensor;
  /** See `LayerAdapter`. */
  embed(layer: Adaptable, ids: Tensor, rows: Tensor): Tensor;
}

/** What layers take in place of the adapters that they have. */
const instead = new Ambient<((layer: Adaptable) => LayerAdapter | null) | null>(null);

/** What `body` returns where each layer has the adapter that `adapterOf` gives it, whatever adapter it has. */
export function withAdapters<T>(adapterOf: (layer: Adaptable) => LayerAdapter | null, body: () => T): T {
  return instead.during(adapterOf, body);
}

/**
 * What `body` returns where layers compute with their own matrices alone, whatever adapter they have: what a model says beside
 * its adapter in one compiled step. Parameters that an adapter trains whole keep its values.
 */
export function withoutAdapters<T>(body: () => T): T {
  return withAdapters(() => null, body);
}

/** A layer whose matrix an adapter may change. */
export abstract class Adaptable extends Module {
  #adapter: LayerAdapter | null = null;

  /** Null: the layer computes with its own matrix alone. */
  get adapter(): LayerAdapter | null {
    return instead.value ? instead.value(this) : dependsOn(() => this.#adapter);
  }

  set adapter(adapter: LayerAdapter | null) {
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
export class LoraLayer implements LayerAdapter {
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

  /** See `LayerAdapter`. */
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

/** The low-rank changes of one layer by several adapters: the tensors of `lora_rows`. */
export interface LoraStack {
  /** The A of all, [C, in]. */
  readonly a: Tensor;
  /** The B of all, transposed: [C, out]. */
  readonly b: Tensor;
  /** i32 [S, 2]: the first row of each adapter, and its rank; 0 for one that does not change the layer. */
  readonly spans: Tensor;
  /** f32 [S]. */
  readonly scales: Tensor;
  /** The largest rank that there may be. */
  readonly rank: number;
}

/**
 * The change of a layer where each row of a batch x [N, in] has an adapter of its own: that of slots [N] i32, or none (-1). The bits
 * of a row do not depend on the others, nor on the adapters that there are besides its own: a layer that no adapter changes
 * (`stack` null) goes the same way, with one rounding at its end.
 */
export class RowAdapter implements LayerAdapter {
  readonly #stack: LoraStack | null;
  readonly #slots: Tensor;

  constructor(stack: LoraStack | null, slots: Tensor) {
    this.#stack = stack;
    this.#slots = slots;
  }

  /** See `project`. */
  project(layer: Projection, x: Tensor, { residual, activation, outDtype }: ProductOptions): Tensor {
    const base = layer.product(x, layer.bias, { batchInvariant: true, outDtype: "f32" });
    const changed = this.#stack ? loraRows(base, x, this.#stack, this.#slots) : base;
    const active = activation ? activate(changed, activation) : changed;
    const y = residual ? add(active, cast(residual, "f32")) : active;
    return cast(y, outDtype ?? x.dtype);
  }

  /** No adapter of a row changes an embedding. */
  embed(_layer: Adaptable, _ids: Tensor, rows: Tensor): Tensor {
    return rows;
  }
}

const lengthsOf = (matrix: Tensor) => sqrt(sum(square(matrix), 1));
