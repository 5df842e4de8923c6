import { checkOptions } from "../core/errors.ts";
import { ones, type Tensor, zeros } from "../core/tensor.ts";
import {
  embedding,
  fusedLinear,
  type LinearOptions,
  layerNorm,
  linear,
  type Norm,
  rmsNorm,
  suitsFusion,
  swiglu,
  transpose,
} from "../kernels/index.ts";
import { ontoResidual, type PassDropout } from "./dropout.ts";
import { drawNormal, drawUniform } from "./init.ts";
import { Adaptable, type ProductOptions, type Projection, project } from "./lora.ts";
import { Module, Parameter } from "./module.ts";
import type { QuantizedLinear } from "./quantized_linear.ts";

/** Options of a forward pass. */
export interface RunOptions {
  /**
   * For serving: the bits of a row must not depend on the other rows of the batch, so kernels are chosen by the model's
   * shape alone, never by the number of rows.
   */
  batchInvariant?: boolean;
  /** In training of a model that has it. */
  dropout?: PassDropout | undefined;
}

/**
 * y = x W^T + b for x [..., in_features]; `weight` is [out_features, in_features] and `bias` on by default, as in
 * PyTorch. Both start uniform in +-1 / sqrt(in_features).
 */
export class Linear extends Adaptable implements Projection {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  /** `residual`: the result is added to the residual stream, see `Parameter.residual`. */
  constructor(inFeatures: number, outFeatures: number, options: { bias?: boolean; residual?: boolean } = {}) {
    super();
    const { bias = true, residual = false } = checkOptions("Linear", options, ["bias", "residual"]);
    const draw = drawUniform(1 / Math.sqrt(Math.max(inFeatures, 1)));
    this.weight = Parameter.make([outFeatures, inFeatures], draw);
    this.weight.residual = residual;
    this.bias = bias ? Parameter.make([outFeatures], draw) : null;
  }

  get features(): readonly [number, number] {
    return this.weight.shape as [number, number];
  }

  matrix(): Tensor {
    return this.weight.compute;
  }

  /** See `Projection`. */
  product(x: Tensor, bias: Tensor | null, options: LinearOptions): Tensor {
    return linear(x, this.weight.compute, bias, options);
  }

  /** `residual`, of the output's shape, is added to the result. */
  forward(x: Tensor, options: ProductOptions = {}): Tensor {
    return project(this, x, options);
  }
}

/**
 * y = activation(x W + b) for x [..., in_features]; `weight` is [in_features, out_features], as GPT-2 stores it, and named as
 * there: no convolution (that is Conv1d). It starts normal of standard deviation 0.02, b at 0.
 */
export class Conv1D extends Adaptable implements Projection {
  readonly weight: Parameter;
  readonly bias: Parameter;

  /** `residual`: the result is added to the residual stream, see `Parameter.residual`. */
  constructor(inFeatures: number, outFeatures: number, options: { residual?: boolean } = {}) {
    super();
    this.weight = Parameter.make([inFeatures, outFeatures], drawNormal(0.02));
    this.weight.residual = options.residual ?? false;
    this.bias = Parameter.make([outFeatures], zeros);
  }

  get features(): readonly [number, number] {
    const [inFeatures, outFeatures] = this.weight.shape as [number, number];
    return [outFeatures, inFeatures];
  }

  /** A view: `linear` transposes it back, so that kernels read the weight as it is stored. */
  matrix(): Tensor {
    return transpose(this.weight.compute, 0, 1);
  }

  /** See `Projection`. */
  product(x: Tensor, bias: Tensor | null, options: LinearOptions): Tensor {
    return linear(x, this.matrix(), bias, options);
  }

  /** `residual`, of the output's shape, is added to the result. */
  forward(x: Tensor, options: ProductOptions = {}): Tensor {
    return project(this, x, options);
  }
}

/**
 * The matrices that passes read, for fused products; null where one is quantized or has an adapter, which those do not know.
 */
export function fusable<L extends (Linear | Conv1D | QuantizedLinear)[]>(
  ...layers: L
): { [K in keyof L]: Tensor } | null {
  const matrices = layers.map((layer) => ("weight" in layer && !layer.adapter ? layer.weight.compute : null));
  return matrices.includes(null) ? null : (matrices as { [K in keyof L]: Tensor });
}

/** Rows of `weight` [num_embeddings, embedding_dim] by id; they start standard normal. */
export class Embedding extends Adaptable {
  readonly weight: Parameter;

  constructor(numEmbeddings: number, embeddingDim: number) {
    super();
    this.weight = Parameter.make([numEmbeddings, embeddingDim], drawNormal(1));
    this.weight.perToken = true;
  }

  get features(): readonly [number, number] {
    const [rows, width] = this.weight.shape as [number, number];
    return [width, rows];
  }

  /** A view [embedding_dim, num_embeddings]. */
  matrix(): Tensor {
    return transpose(this.weight.compute, 0, 1);
  }

  forward(ids: Tensor): Tensor {
    const rows = embedding(ids, this.weight.compute);
    return this.adapter?.embed(this, ids, rows) ?? rows;
  }
}

/** Root mean square norm over the last axis (Zhang & Sennrich 2019); the weight starts at 1. */
export class RmsNorm extends Module {
  readonly weight: Parameter;
  readonly #eps: number;

  constructor(width: number, eps = 1e-6) {
    super();
    this.weight = Parameter.make([width], ones);
    this.#eps = eps;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.#eps);
  }

  /** This norm, for a fused product that applies it to its input. */
  get norm(): Norm {
    return { kind: "rms", weight: this.weight, eps: this.#eps };
  }
}

/** Layer norm over the last axis (Ba et al. 2016); the weight starts at 1, the bias at 0. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly #eps: number;

  constructor(width: number, eps = 1e-5) {
    super();
    this.weight = Parameter.make([width], ones);
    this.bias = Parameter.make([width], zeros);
    this.#eps = eps;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.#eps);
  }

  /** This norm, for a fused product that applies it to its input. */
  get norm(): Norm {
    return { kind: "layer", weight: this.weight, bias: this.bias, eps: this.#eps };
  }
}

/** down(silu(gate(x)) * up(x)): the gated feed-forward of Llama (Shazeer 2020). */
export class GatedMlp extends Module {
  readonly gateProj: Linear | QuantizedLinear;
  readonly upProj: Linear | QuantizedLinear;
  readonly downProj: Linear | QuantizedLinear;

  constructor(hiddenSize: number, intermediateSize: number, options: { bias: boolean }) {
    super();
    this.gateProj = new Linear(hiddenSize, intermediateSize, options);
    this.upProj = new Linear(hiddenSize, intermediateSize, options);
    this.downProj = new Linear(intermediateSize, hiddenSize, { ...options, residual: true });
  }

  /** mlp(x) + residual. */
  forward(x: Tensor, residual: Tensor, options: RunOptions = {}): Tensor {
    const gated = swiglu(this.gateProj.forward(x, options), this.upProj.forward(x, options));
    return ontoResidual(this.downProj, gated, residual, options);
  }

  /** mlp(norm(x)) + x for single tokens x [N, hidden_size], each with the same bits in any batch. */
  forwardPaged(x: Tensor, norm: RmsNorm): Tensor {
    const { gateProj, upProj, downProj } = this;
    const weights = fusable(gateProj, upProj, downProj);
    if (!weights || gateProj.bias || !suitsFusion(x.device.profile, x.shape[1]))
      return this.forward(norm.forward(x), x, { batchInvariant: true });
    const [gate, up, down] = weights;
    const gated = fusedLinear(x, [gate, up], { norm: norm.norm, activation: "swiglu" });
    return fusedLinear(gated, [down], { residual: x });
  }
}
