import type { Tensor } from "../core/tensor.ts";
import {
  attention,
  fusedLinear,
  fusedQkv,
  pagedAttention,
  pagedKvWrite,
  permute,
  reshape,
  rope,
  suitsFusion,
} from "../kernels/index.ts";
import { explicitAttention, ontoResidual, type PassDropout } from "./dropout.ts";
import { Conv1D, fusable, type LayerNorm, Linear, type RmsNorm, type RunOptions } from "./layers.ts";
import { Module } from "./module.ts";
import { equalParts } from "./parts.ts";
import type { QuantizedLinear } from "./quantized_linear.ts";

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
  /** [B, T] i32: position of each token in its document. */
  positions: Tensor;
  /** [B, T] i32: document of each token; attention stays inside a document. Absent: one document a row. */
  segments?: Tensor | undefined;
  /** bool [B, 1, 1, T]: false hides a token from all others, as padding. */
  mask?: Tensor | undefined;
  /** Whether a token sees only itself and those before it; true unless an encoder says otherwise. */
  causal?: boolean | undefined;
  /** In training of a model that has it. */
  dropout?: PassDropout | undefined;
  /** Sees the attention weights of each layer, f32 [B, heads, T, T], which are then kept in memory. */
  seeWeights?: ((weights: Tensor) => void) | undefined;
}

/** A mixed batch of single tokens, as in serving: each attends to its own sequence through the block table. */
export interface PagedContext {
  /** [N] i32: position of each token in its sequence. */
  positions: Tensor;
  /** [N] i32: row of the block table of each token's sequence. */
  sequences: Tensor;
  /** [N] i32: cache slot of each token, block * block_size + offset; -1 writes nothing. */
  slots: Tensor;
  /** [2, at least N] i32: positions and slots again, in one tensor. */
  places: Tensor;
  /** [max_sequences, max_blocks] i32. */
  blockTable: Tensor;
}

/** Keys and values of one layer: [num_blocks, block_size, num_key_value_heads, head_dim] each. */
export interface LayerCache {
  key: Tensor;
  value: Tensor;
}

/** What reading the cache needs. */
export type CachedContext = Pick<PagedContext, "positions" | "sequences" | "blockTable">;

export type Heads = [query: Tensor, key: Tensor, value: Tensor];

/** Attention of whole rows: [B, T, heads, head_dim] each (grouped for keys and values) to [B, T, heads * head_dim]. */
export function attendRows(heads: Heads, context: SequenceContext): Tensor {
  const [query, key, value] = heads.map((y) => permute(y, [0, 2, 1, 3])) as Heads;
  const { segments, mask, dropout, causal = true, seeWeights } = context;
  const mixed =
    dropout?.rates.attention || seeWeights
      ? explicitAttention([query, key, value], context)
      : attention(query, key, value, { causal, segments, mask });
  const [batch, length, count, width] = heads[0].shape as [number, number, number, number];
  return reshape(permute(mixed, [0, 2, 1, 3]), [batch, length, count * width]);
}

/** Attention of single tokens over what the cache holds, [N, heads, head_dim] to [N, heads * head_dim]. */
function attendCached(query: Tensor, cache: LayerCache, context: CachedContext): Tensor {
  const { sequences, positions, blockTable } = context;
  const mixed = pagedAttention(query, cache.key, cache.value, blockTable, sequences, positions);
  const [rows, count, width] = query.shape as [number, number, number];
  return reshape(mixed, [rows, count * width]);
}

/** Writes the tokens' keys and values [N, kv_heads, head_dim] into the cache, then attends to what it holds. */
function attendPaged(
  [query, key, value]: Heads,
  cache: LayerCache,
  context: CachedContext & Pick<PagedContext, "slots">,
): Tensor {
  pagedKvWrite(cache.key, cache.value, key, value, context.slots);
  return attendCached(query, cache, context);
}

/** Causal self-attention with rotary positions and grouped key/value heads, as in Llama. */
export class CausalSelfAttention extends Module {
  readonly qProj: Linear | QuantizedLinear;
  readonly kProj: Linear | QuantizedLinear;
  readonly vProj: Linear | QuantizedLinear;
  readonly oProj: Linear | QuantizedLinear;
  readonly #sizes: AttentionSizes;
  readonly #inverseFrequencies: Tensor;

  /** `inverseFrequencies` [head_dim / 2] f32: rotation of each pair in radians per position, shared by all layers. */
  constructor(sizes: AttentionSizes, inverseFrequencies: Tensor) {
    super();
    const { hidden_size, num_attention_heads, num_key_value_heads, head_dim, attention_bias: bias } = sizes;
    this.#sizes = sizes;
    this.#inverseFrequencies = inverseFrequencies;
    this.qProj = new Linear(hidden_size, num_attention_heads * head_dim, { bias });
    this.kProj = new Linear(hidden_size, num_key_value_heads * head_dim, { bias });
    this.vProj = new Linear(hidden_size, num_key_value_heads * head_dim, { bias });
    this.oProj = new Linear(num_attention_heads * head_dim, hidden_size, { bias, residual: true });
  }

  /** attention(x) + residual for x [B, T, hidden_size]. */
  forward(x: Tensor, residual: Tensor, context: SequenceContext): Tensor {
    const heads = this.#heads(x, context.positions, { dropout: context.dropout });
    return ontoResidual(this.oProj, attendRows(heads, context), residual, { dropout: context.dropout });
  }

  /**
   * attention(norm(x)) + x for single tokens x [N, hidden_size], reading and filling a paged cache; the bits of a row
   * depend on its sequence alone.
   */
  forwardPaged(x: Tensor, norm: RmsNorm, cache: LayerCache, context: PagedContext): Tensor {
    const { positions, places } = context;
    const { num_attention_heads: heads, hidden_size, attention_bias } = this.#sizes;
    const weights = fusable(this.qProj, this.kProj, this.vProj, this.oProj);
    if (!weights || attention_bias || !suitsFusion(x.device.profile, hidden_size)) {
      const options = { batchInvariant: true };
      const mixed = attendPaged(this.#heads(norm.forward(x), positions, options), cache, context);
      return this.oProj.forward(mixed, { ...options, residual: x });
    }
    const inverseFrequencies = this.#inverseFrequencies;
    const output = weights.pop()!;
    const query = fusedQkv(x, weights, { heads, norm: norm.norm, inverseFrequencies, places, cache });
    return fusedLinear(attendCached(query, cache, context), [output], { residual: x });
  }

  /** Query, key and value [..., heads, head_dim], rotated. */
  #heads(x: Tensor, positions: Tensor, options: RunOptions = {}): Heads {
    const { num_attention_heads: count, num_key_value_heads: kvCount, head_dim } = this.#sizes;
    const rows = x.shape.slice(0, -1);
    const project = (layer: Linear | QuantizedLinear, heads: number) =>
      reshape(layer.forward(x, options), [...rows, heads, head_dim]);
    const rotate = (y: Tensor) => rope(y, this.#inverseFrequencies, positions);
    const query = rotate(project(this.qProj, count));
    const key = rotate(project(this.kProj, kvCount));
    return [query, key, project(this.vProj, kvCount)];
  }
}

/** Causal self-attention whose query, key and value come from one product, as in GPT-2. */
export class FusedSelfAttention extends Module {
  readonly cAttn: Conv1D | QuantizedLinear;
  readonly cProj: Conv1D | QuantizedLinear;
  readonly #heads: number;

  constructor(width: number, heads: number) {
    super();
    this.#heads = heads;
    this.cAttn = new Conv1D(width, 3 * width);
    this.cProj = new Conv1D(width, width, { residual: true });
  }

  /** attention(x) + residual for x [B, T, width]. */
  forward(x: Tensor, residual: Tensor, context: SequenceContext): Tensor {
    const { dropout } = context;
    const mixed = attendRows(this.#split(this.cAttn.forward(x, { dropout })), context);
    return ontoResidual(this.cProj, mixed, residual, { dropout });
  }

  /**
   * attention(norm(x)) + x for single tokens x [N, width], reading and filling a paged cache; the bits of a row depend on
   * its sequence alone.
   */
  forwardPaged(x: Tensor, norm: LayerNorm, cache: LayerCache, context: PagedContext): Tensor {
    const { cAttn, cProj } = this;
    const width = x.shape[1];
    const weights = fusable(cAttn, cProj);
    // The fused kernel processes each head in two halves.
    if (
      !weights ||
      (width / this.#heads) % 2 === 1 ||
      !suitsFusion(x.device.profile, width, { inOut: true })
    ) {
      const options = { batchInvariant: true };
      const mixed = attendPaged(this.#split(cAttn.forward(norm.forward(x), options)), cache, context);
      return cProj.forward(mixed, { ...options, residual: x });
    }
    const { places } = context;
    const attrs = { heads: this.#heads, norm: norm.norm, bias: cAttn.bias, places, cache, inOut: true };
    const query = fusedQkv(x, [weights[0]], attrs);
    const mixed = attendCached(query, cache, context);
    return fusedLinear(mixed, [weights[1]], { bias: cProj.bias, residual: x, inOut: true });
  }

  /** Query, key and value [..., heads, head_dim] as views of [..., 3 * width]. */
  #split(fused: Tensor): Heads {
    const width = fused.shape.at(-1)! / 3;
    const parts = equalParts(fused, 3, -1);
    const shape = [...fused.shape.slice(0, -1), this.#heads, width / this.#heads];
    return parts.map((part) => reshape(part, shape)) as Heads;
  }
}

/** Attention of one sequence to another or to itself, with a layer each for query, key and value, as in BART. */
export class MultiHeadAttention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly outProj: Linear;
  readonly #heads: number;

  constructor(width: number, heads: number) {
    super();
    this.#heads = heads;
    this.qProj = new Linear(width, width);
    this.kProj = new Linear(width, width);
    this.vProj = new Linear(width, width);
    this.outProj = new Linear(width, width);
  }

  /** attention(x) + residual for x [B, T, width], whose tokens attend to those of `source` [B, S, width]. */
  forward(x: Tensor, source: Tensor, residual: Tensor, context: SequenceContext & RunOptions): Tensor {
    const { dropout, batchInvariant = false } = context;
    const run = { dropout, batchInvariant };
    const mixed = attendRows([this.#split(this.qProj, x, run), ...this.keysValues(source, run)], context);
    return ontoResidual(this.outProj, mixed, residual, run);
  }

  /** Keys and values [..., heads, head_dim] of x [..., width]. */
  keysValues(x: Tensor, options: RunOptions): [key: Tensor, value: Tensor] {
    return [this.#split(this.kProj, x, options), this.#split(this.vProj, x, options)];
  }

  /**
   * The same for single tokens x [N, width]: with `slots` they attend to themselves and those before them, and their keys and
   * values are written to the cache; without, they attend to what it holds up to their positions.
   */
  forwardPaged(
    x: Tensor,
    residual: Tensor,
    cache: LayerCache,
    context: CachedContext & { slots?: Tensor },
  ): Tensor {
    const run = { batchInvariant: true };
    const { slots, ...place } = context;
    const query = this.#split(this.qProj, x, run);
    const mixed = slots
      ? attendPaged([query, ...this.keysValues(x, run)], cache, { ...place, slots })
      : attendCached(query, cache, place);
    return this.outProj.forward(mixed, { ...run, residual });
  }

  #split(layer: Linear, x: Tensor, options: RunOptions): Tensor {
    const y = layer.forward(x, options);
    return reshape(y, [...x.shape.slice(0, -1), this.#heads, x.shape.at(-1)! / this.#heads]);
  }
}
