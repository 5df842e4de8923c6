import type { Tensor } from "../core/tensor.ts";
import {
  add,
  cast,
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
import type { Conv1D, Linear, RunOptions } from "./layers.ts";

/** Shares of values that training sets to zero: attention weights, outputs of a block's two parts, embeddings. */
export interface DropoutRates {
  attention: number;
  residual: number;
  embedding: number;
}

/**
 * The dropout of one pass (Srivastava et al. 2014). Masks are a function of the key and of the place of the call in the
 * pass, so that a replayed step with another key draws others, and the same key always draws the same.
 */
export class PassDropout {
  readonly rates: DropoutRates;
  readonly #key: Tensor;
  #calls = 0;

  /** `key` is u32 [4], see `dropout` of the kernels. */
  constructor(key: Tensor, rates: DropoutRates) {
    this.#key = key;
    this.rates = rates;
  }

  apply(x: Tensor, kind: keyof DropoutRates): Tensor {
    return dropout(x, this.rates[kind], this.#key, this.#calls++);
  }
}

/** layer(x) + residual; with dropout what is added is dropped out. */
export function ontoResidual(
  layer: Linear | Conv1D,
  x: Tensor,
  residual: Tensor,
  options: RunOptions & { dropout?: PassDropout | undefined },
): Tensor {
  const { dropout: drop, ...rest } = options;
  if (!drop?.rates.residual) return layer.forward(x, { ...rest, residual });
  return add(drop.apply(layer.forward(x, rest), "residual"), residual);
}

/**
 * Attention inside segments, causal unless told otherwise, with dropout on its weights: query [B, H, T, D], key and value
 * [B, KV, T, D] to [B, H, T, D]. Keeps the B * H * T * T weights in memory several times over, which attention without
 * dropout never does. `positions` [B, T] rise inside a segment.
 */
export function attentionWithDropout(
  [query, key, value]: readonly [Tensor, Tensor, Tensor],
  drop: PassDropout,
  { positions, segments, causal = true }: Pick<SequenceContext, "positions" | "segments" | "causal">,
): Tensor {
  const [batch, heads, length, width] = query.shape as [number, number, number, number];
  const groups = key.shape[1];
  const pairs = (compare: typeof eq, ids: Tensor) =>
    compare(reshape(ids, [batch, 1, 1, length, 1]), reshape(ids, [batch, 1, 1, 1, length]));
  const before = causal && pairs(ge, positions);
  const together = segments && pairs(eq, segments);
  const seen = before && together ? logicalAnd(before, together) : before || together;
  const grouped = (t: Tensor, count: number) => reshape(t, [batch, groups, count, length, width]);
  const scores = matmul(grouped(query, heads / groups), transpose(grouped(key, 1), -1, -2), {
    scale: 1 / Math.sqrt(width),
    outDtype: "f32",
  });
  // Every token sees itself: no row is without a finite score.
  const weights = drop.apply(softmax(seen ? where(seen, scores, -3e38) : scores), "attention");
  return reshape(matmul(cast(weights, value.dtype), grouped(value, 1)), query.shape);
}
