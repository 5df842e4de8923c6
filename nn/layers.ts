import { ones, type Tensor, zeros } from "../core/tensor.ts";
import {
  type Activation,
  embedding,
  fusedLinear,
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
import { Module, Parameter } from "./module.ts";

/** Options of a forward pass. */
export interface RunOptions {
  /**
   * For serving: the bits of a row must not depend on the other rows of the batch, so kernels are chosen by the model's
   * shape alone, never by the number of rows.
   */
  batchInvariant?: boolean;
}

/**
 * y = x W^T + b for x [..., in_features]; `weight` is [out_features, in_features] and `bias` on by default, as in
 * PyTorch. Both start uniform in +-1 / sqrt(in_features).
 */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  /** `residual`: the result is added to the residual stream, see `Parameter.residual`. */
  constructor(
    inFeatures: number,
    outFeatures: number,
    { bias = true, residual = false }: { bias?: boolean; residual?: boolean } = {},
  ) {
    super();
    const draw = drawUniform(1 / Math.sqrt(Math.max(inFeatures, 1)));
    this.weight = Parameter.make([outFeatures, inFeatures], draw);
    this.weight.residual = residual;
    this.bias = bias ? Parameter.make([outFeatures], draw) : null;
  }

  /** `residual`, of the output's shape, is added to the result. */
  forward(x: Tensor, options: RunOptions & { residual?: Tensor } = {}): Tensor {
    return linear(x, this.weight.compute, this.bias, options);
  }
}

/**
 * y = activation(x W + b) for x [..., in_features]; `weight` is [in_features, out_features], as GPT-2 stores it, and named as
 * there: no convolution (that is Conv1d). It starts normal of standard deviation 0.02, b at 0.
 */
export class Conv1D extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;

  /** `residual`: the result is added to the residual stream, see `Parameter.residual`. */
  constructor(inFeatures: number, outFeatures: number, options: { residual?: boolean } = {}) {
    super();
    this.weight = Parameter.make([inFeatures, outFeatures], drawNormal(0.02));
    this.weight.residual = options.residual ?? false;
    this.bias = Parameter.make([outFeatures], zeros);
  }

  /** `residual`, of the output's shape, is added to the result. */
  forward(x: Tensor, options: RunOptions & { activation?: Activation; residual?: Tensor } = {}): Tensor {
    // `linear` transposes the view back, so the kernel reads the weight as it is stored.
    return linear(x, transpose(this.weight.compute, 0, 1), this.bias, options);
  }
}

/** Rows of `weight` [num_embeddings, embedding_dim] by id; they start standard normal. */
export class Embedding extends Module {
  readonly weight: Parameter;

  constructor(numEmbeddings: number, embeddingDim: number) {
    super();
    this.weight = Parameter.make([numEmbeddings, embeddingDim], drawNormal(1));
    this.weight.perToken = true;
  }

  forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight.compute);
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
  readonly gateProj: Linear;
  readonly upProj: Linear;
  readonly downProj: Linear;

  constructor(hiddenSize: number, intermediateSize: number, options: { bias: boolean }) {
    super();
    this.gateProj = new Linear(hiddenSize, intermediateSize, options);
    this.upProj = new Linear(hiddenSize, intermediateSize, options);
    this.downProj = new Linear(intermediateSize, hiddenSize, { ...options, residual: true });
  }

  /** mlp(x) + residual. */
  forward(
    x: Tensor,
    residual: Tensor,
    options: RunOptions & { dropout?: PassDropout | undefined } = {},
  ): Tensor {
    const { dropout: _, ...run } = options;
    const gated = swiglu(this.gateProj.forward(x, run), this.upProj.forward(x, run));
    return ontoResidual(this.downProj, gated, residual, options);
  }

  /** mlp(norm(x)) + x for single tokens x [N, hidden_size], each with the same bits in any batch. */
  forwardPaged(x: Tensor, norm: RmsNorm): Tensor {
    const { gateProj, upProj, downProj } = this;
    if (gateProj.bias || !suitsFusion(x.device.profile, x.shape[1]))
      return this.forward(norm.forward(x), x, { batchInvariant: true });
    const weights = [gateProj.weight.compute, upProj.weight.compute] as const;
    const gated = fusedLinear(x, weights, { norm: norm.norm, activation: "swiglu" });
    return fusedLinear(gated, [downProj.weight.compute], { residual: x });
  }
}
