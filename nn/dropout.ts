import { KilnError } from "../core/errors.ts";
import { persist } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { Tensor, tensor } from "../core/tensor.ts";
import {
  add,
  addInto,
  cast,
  copy,
  dropout,
  eq,
  ge,
  logicalAnd,
  matmul,
  reshape,
  softmax,
  transpose,
  where,
} from "../kernels/index.ts";
import type { SequenceContext } from "./attention.ts";
import { nextKey } from "./init.ts";
import type { Conv1D, Linear, RunOptions } from "./layers.ts";
import { Module } from "./module.ts";
import type { QuantizedLinear } from "./quantized_linear.ts";

/**
 * torch.nn.Dropout: in training each value is set to 0 with probability p, and the others are divided by 1 - p (Srivastava
 * et al. 2014). Masks follow from `manualSeed`, the number of draws before this module was made, and the number of its calls,
 * which is counted on the device: a compiled step draws another mask at each replay.
 */
export class Dropout extends Module {
  readonly #p: number;
  readonly #key: Tensor;
  readonly #step: Tensor;

  constructor(p = 0.5) {
    super();
    if (!(p >= 0 && p <= 1)) throw new KilnError(`Dropout: p is ${p}; expected a number from 0 to 1`);
    this.#p = p;
    this.#key = persist(nextKey());
    this.#step = persist(tensor([0, 0, 0, 1], [4], "u32"));
  }

  forward(x: Tensor): Tensor {
    if (!this.training || this.#p === 0) return x;
    // The gradient draws the mask again, perhaps after further calls.
    const key = noGrad(() => copy(this.#key));
    addInto(this.#key, this.#step);
    return dropout(x, this.#p, key);
  }
}

/**
 * Shares of values that training zeroes: attention weights, outputs of a block's two parts, embeddings, the input of a head's
 * first layer where it has two, and that of its last.
 */
export interface DropoutRates {
  attention: number;
  residual: number;
  embedding: number;
  pooler?: number;
  head?: number;
}

/**
 * The dropout of one pass (Srivastava et al. 2014). Masks depend on the key and on the position of the call in the pass: a
 * replayed step draws new masks with a new key, and the same masks with the same key.
 */
export class PassDropout {
  readonly rates: DropoutRates;
  readonly #key: Tensor;
  /** Calls so far. Computing a part of the pass again starts from the number that it started from. */
  calls = 0;

  /** `key` is u32 [4], see `dropout` of the kernels. */
  constructor(key: Tensor, rates: DropoutRates) {
    this.#key = key;
    this.rates = rates;
  }

  apply(x: Tensor, kind: keyof DropoutRates): Tensor {
    return this.draw(x, this.rates[kind] ?? 0);
  }

  /** x with this share of its values dropped out; x itself where the share is 0. */
  draw(x: Tensor, rate: number): Tensor {
    return dropout(x, rate, this.#key, this.calls++);
  }
}

/** layer(x) + residual, with dropout on layer(x) where there is any. */
export function ontoResidual(
  layer: Linear | Conv1D | QuantizedLinear,
  x: Tensor,
  residual: Tensor,
  options: RunOptions,
): Tensor {
  const { dropout: drop } = options;
  if (!drop?.rates.residual) return layer.forward(x, { ...options, residual });
  return add(drop.apply(layer.forward(x, options), "residual"), residual);
}

/** What `explicitAttention` reads of a pass, and what may be added to its scores. */
interface ScoreContext
  extends Pick<SequenceContext, "positions" | "segments" | "mask" | "causal" | "dropout" | "seeWeights"> {
  /** 1 / sqrt(D) when absent. */
  scale?: number;
  /** f32 [B, H, T, S], added to the scaled products. */
  bias?: Tensor | undefined;
}

/**
 * Attention inside segments, causal unless told otherwise, with dropout on its weights or a bias on its scores: query
 * [B, H, T, D], key and value [B, KV, S, D] to [B, H, T, D]; S is T where there are segments or it is causal. Keeps the
 * B * H * T * S weights in memory several times over, which `attention` never does. `positions` [B, T] rise inside a segment.
 * A row that sees no key is the mean of all values.
 */
export function explicitAttention(
  [query, key, value]: readonly [Tensor, Tensor, Tensor],
  context: ScoreContext,
): Tensor {
  const { positions, segments, mask, causal = true, dropout, bias } = context;
  const [batch, heads, length, width] = query.shape as [number, number, number, number];
  const [, groups, keys] = key.shape;
  const pairs = (compare: typeof eq, ids: Tensor) =>
    compare(reshape(ids, [batch, 1, 1, length, 1]), reshape(ids, [batch, 1, 1, 1, length]));
  const rules = [
    causal && pairs(ge, positions),
    segments && pairs(eq, segments),
    mask && reshape(mask, [batch, 1, 1, -1, keys]),
  ].filter((rule) => rule instanceof Tensor);
  const seen = rules.length > 0 ? rules.reduce((all, rule) => logicalAnd(all, rule)) : null;
  const grouped = (t: Tensor, count: number) => reshape(t, [batch, groups, count, t.shape[2], width]);
  const products = matmul(grouped(query, heads / groups), transpose(grouped(key, 1), -1, -2), {
    scale: context.scale ?? 1 / Math.sqrt(width),
    outDtype: "f32",
  });
  const scores = bias ? add(products, reshape(bias, products.shape)) : products;
  const weights = softmax(seen ? where(seen, scores, -3e38) : scores);
  context.seeWeights?.(reshape(weights, [batch, heads, length, keys]));
  const kept = cast(dropout?.apply(weights, "attention") ?? weights, value.dtype);
  return reshape(matmul(kept, grouped(value, 1)), query.shape);
}
