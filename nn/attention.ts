import type { Tensor } from "../core/tensor.ts";
import { attention, pagedAttention, pagedKvWrite, permute, reshape, rope } from "../kernels/index.ts";
import { Linear } from "./layers.ts";
import { Module } from "./module.ts";

/** Sizes of an attention layer, in the words of config.json. */
export interface AttentionSizes {
  hidden_size: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  attention_bias: boolean;
}

/** Whole rows of tokens, as in training. */
export interface SequenceContext {
  /** [B, T] i32: place of each token in its document. */
  positions: Tensor;
  /** [B, T] i32: document of each token; attention stays inside a document. Absent: one document a row. */
  segments?: Tensor | undefined;
  /** [head_dim / 2] f32. */
  inverseFrequencies: Tensor;
}

/** A mixed batch of single tokens, as in serving: each attends its own sequence through the block table. */
export interface PagedContext {
  /** [N] i32: place of each token in its sequence. */
  positions: Tensor;
  /** [N] i32: row of the block table of each token's sequence. */
  sequences: Tensor;
  /** [N] i32: cache slot of each token, block * block_size + offset; -1 writes nothing. */
  slots: Tensor;
  /** [max_sequences, max_blocks] i32. */
  blockTable: Tensor;
  inverseFrequencies: Tensor;
}

/** Keys and values of one layer: [num_blocks, block_size, num_key_value_heads, head_dim] each. */
export interface LayerCache {
  key: Tensor;
  value: Tensor;
}

/** Causal self-attention with rotary positions and grouped key/value heads, as in Llama. */
export class CausalSelfAttention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;
  readonly #sizes: AttentionSizes;

  constructor(sizes: AttentionSizes) {
    super();
    const { hidden_size, num_attention_heads, num_key_value_heads, head_dim, attention_bias: bias } = sizes;
    this.#sizes = sizes;
    this.qProj = new Linear(hidden_size, num_attention_heads * head_dim, { bias });
    this.kProj = new Linear(hidden_size, num_key_value_heads * head_dim, { bias });
    this.vProj = new Linear(hidden_size, num_key_value_heads * head_dim, { bias });
    this.oProj = new Linear(num_attention_heads * head_dim, hidden_size, { bias });
  }

  /** attention(x) + residual for x [B, T, hidden_size]. */
  forward(x: Tensor, residual: Tensor, context: SequenceContext): Tensor {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim } = this.#sizes;
    const [batch, length] = x.shape as [number, number];
    const split = (y: Tensor, count: number) => reshape(y, [batch, length, count, head_dim]);
    const rotate = (y: Tensor) => rope(y, context.inverseFrequencies, context.positions);
    const headsFirst = (y: Tensor) => permute(y, [0, 2, 1, 3]);
    const query = headsFirst(rotate(split(this.qProj.forward(x), heads)));
    const key = headsFirst(rotate(split(this.kProj.forward(x), kvHeads)));
    const value = headsFirst(split(this.vProj.forward(x), kvHeads));
    const mixed = attention(query, key, value, { causal: true, segments: context.segments });
    const joined = reshape(permute(mixed, [0, 2, 1, 3]), [batch, length, heads * head_dim]);
    return this.oProj.forward(joined, { residual });
  }

  /** The same for x [N, hidden_size], reading and filling a paged cache; the bits of a row depend on its sequence alone. */
  forwardPaged(x: Tensor, residual: Tensor, cache: LayerCache, context: PagedContext): Tensor {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim } = this.#sizes;
    const rows = x.shape[0]!;
    const options = { batchInvariant: true };
    const split = (y: Tensor, count: number) => reshape(y, [rows, count, head_dim]);
    const rotate = (y: Tensor) => rope(y, context.inverseFrequencies, context.positions);
    const query = rotate(split(this.qProj.forward(x, options), heads));
    const key = rotate(split(this.kProj.forward(x, options), kvHeads));
    const value = split(this.vProj.forward(x, options), kvHeads);
    pagedKvWrite(cache.key, cache.value, key, value, context.slots);
    const { sequences, positions, blockTable } = context;
    const mixed = pagedAttention(query, cache.key, cache.value, blockTable, sequences, positions);
    return this.oProj.forward(reshape(mixed, [rows, heads * head_dim]), { ...options, residual });
  }
}
