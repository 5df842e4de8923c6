import { definedOnly } from "../../core/defined_only.ts";
import { KilnError } from "../../core/errors.ts";
import type { Tensor } from "../../core/tensor.ts";
import {
  add,
  descend,
  div,
  type Hyper,
  matmul,
  maximum,
  mul,
  muonMomentum,
  roundBfloat16,
  sqrt,
  square,
  sum,
  transpose,
} from "../../kernels/index.ts";
import { Parameter } from "../../nn/index.ts";
import { AdamW } from "./adam.ts";
import { BaseOptimizer, named, type OptimizerOptions, type Parameters, type Update } from "./optimizer.ts";
import { SplitOptimizer } from "./split.ts";

export interface MuonOptions extends OptimizerOptions {
  /** Default 0.95. */
  momentum?: number;
  /** Default true. */
  nesterov?: boolean;
  /**
   * How the rate of a matrix follows from its shape: "original" (the default) is Jordan's sqrt(max(1, rows / columns));
   * "match_rms_adamw" gives updates the size of AdamW's, 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, Moonlight).
   */
  adjustLrFn?: "original" | "match_rms_adamw";
  /** Coefficients of the Newton-Schulz polynomial. */
  coefficients?: readonly [number, number, number];
  /** Newton-Schulz iterations; default 5. */
  iterations?: number;
  /** Default 1e-7. */
  eps?: number;
}

const muonOptions = ["momentum", "nesterov", "adjustLrFn", "coefficients", "iterations", "eps"];

/**
 * Muon (Jordan et al. 2024), as torch.optim.Muon: momentum, then the update's nearest semi-orthogonal matrix. For
 * matrices only.
 */
export class Muon extends BaseOptimizer<MuonOptions> {
  protected override readonly writesHalves = false;

  constructor(parameters: Parameters, options: MuonOptions = {}) {
    for (const [name, { rank }] of named(parameters)) {
      if (rank !== 2)
        throw new KilnError(`Muon takes matrices only; ${name} has rank ${rank}: give it to AdamW`);
    }
    super(parameters, { lr: 1e-3, weightDecay: 0.1, ...options }, ["momentum_buffer"], muonOptions);
  }

  protected hyper(lr: number): Partial<Hyper> {
    return { lr, momentum: this.options.momentum ?? 0.95 };
  }

  protected update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void {
    const { nesterov = true, adjustLrFn } = this.options;
    for (const { param, grad, states } of updates) {
      const moved = muonMomentum(states[0], grad, hyper, scale, nesterov);
      const [rows, columns] = param.shape;
      const ratio = Math.sqrt(Math.max(1, rows / columns));
      const factor = adjustLrFn === "match_rms_adamw" ? 0.2 * Math.sqrt(Math.max(rows, columns)) : ratio;
      descend(param, orthogonalize(moved, this.options), hyper, scale, factor);
    }
  }
}

/**
 * The nearest semi-orthogonal matrix, nearly, by Newton-Schulz iterations whose every result is rounded to bfloat16,
 * which is how the reference defines them.
 */
function orthogonalize(update: Tensor, options: MuonOptions): Tensor {
  const { coefficients: [a, b, c] = [3.4445, -4.775, 2.0315], iterations = 5, eps = 1e-7 } = options;
  const tall = update.shape[0] > update.shape[1];
  const start = roundBfloat16(tall ? transpose(update) : update);
  const norm = maximum(roundBfloat16(sqrt(sum(square(start)))), eps);
  let x = roundBfloat16(div(start, norm));
  for (let i = 0; i < iterations; i++) {
    const gram = roundBfloat16(matmul(x, transpose(x)));
    const polynomial = roundBfloat16(add(mul(gram, b), matmul(gram, gram, { scale: c })));
    x = roundBfloat16(add(mul(x, a), matmul(polynomial, x)));
  }
  return tall ? transpose(x) : x;
}

export interface MuonWithAdamWOptions extends MuonOptions {
  /** AdamW's; default 0.9, 0.95. */
  betas?: readonly [number, number];
  /** AdamW's; default 1e-8. */
  adamwEps?: number;
}

/**
 * Muon on the matrices inside of the model, AdamW on the rest, as its authors use it: on vectors and on matrices with a
 * row for each token (`Parameter.perToken`: embeddings and the head).
 */
export class MuonWithAdamW extends SplitOptimizer {
  constructor(parameters: Parameters, options: MuonWithAdamWOptions = {}) {
    const { betas = [0.9, 0.95], adamwEps: eps = 1e-8, ...muon } = options;
    const { lr, weightDecay, decays } = muon;
    const adamw = definedOnly({ lr, weightDecay, decays, betas, eps });
    super(
      parameters,
      (param) => param.rank === 2 && !(param instanceof Parameter && param.perToken),
      (own) => new Muon(own, muon),
      (own) => new AdamW(own, adamw),
    );
  }
}
