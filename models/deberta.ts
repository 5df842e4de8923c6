import { dispose, persist } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import {
  add,
  einsum,
  eq,
  expand,
  gather,
  logicalAnd,
  matmul,
  pad,
  permute,
  reshape,
  sub,
  transpose,
  where,
  windows,
} from "../kernels/index.ts";
import { Conv1d, Embedding, explicitAttention, type Heads, LayerNorm, Linear } from "../nn/index.ts";
import { activation, BertEncoder, Block, type Family, place } from "./bert.ts";
import type { EncoderInput } from "./encoder.ts";
import { type DebertaConfig, encoderShape } from "./encoder_config.ts";

/** How far tokens are apart, for the blocks of one pass. */
interface RelativeInput extends EncoderInput {
  relative?: {
    /** [2 * span, hidden_size]: what each distance means. */
    rows: Tensor;
    /** i32 [B, 1, T, T]: for a query and a key the row of their distance. */
    places: Tensor;
  };
}

/** How many distances there are each way. */
function spanOf({ position_buckets, max_relative_positions, max_position_embeddings }: DebertaConfig) {
  const furthest = max_relative_positions < 1 ? max_position_embeddings : max_relative_positions;
  return { furthest, span: position_buckets > 0 ? position_buckets : furthest };
}

/** For each distance from -longest to longest, of a query behind a key by so much, its row of 2 * span. */
function rowsOfDistances(config: DebertaConfig, longest: number): Int32Array {
  const { furthest, span } = spanOf(config);
  const near = config.position_buckets > 0 ? Math.floor(span / 2) : Number.POSITIVE_INFINITY;
  const growth = (near - 1) / Math.log((furthest - 1) / near);
  return Int32Array.from({ length: 2 * longest + 1 }, (_, i) => {
    const distance = i - longest;
    const size = Math.abs(distance);
    // Near distances are themselves, far ones share buckets that grow like their logarithm.
    const bucket = size <= near ? size : Math.ceil(Math.log(size / near) * growth) + near;
    return Math.min(Math.max(Math.sign(distance) * bucket + span, 0), 2 * span - 1);
  });
}

/** A convolution over each text that is added to the first block's output (He et al. 2021). */
class TextConvolution {
  readonly #conv: Conv1d;
  readonly #norm: LayerNorm;
  readonly #config: DebertaConfig;

  /** Its layers become parts of `root` below `path`. */
  constructor(root: BertEncoder, path: string, config: DebertaConfig) {
    const { hidden_size: width, conv_kernel_size, conv_groups: groups, layer_norm_eps } = config;
    this.#config = config;
    this.#conv = place(root, `${path}.conv`, new Conv1d(width, width, conv_kernel_size, { groups }));
    this.#norm = place(root, `${path}.LayerNorm`, new LayerNorm(width, layer_norm_eps));
  }

  /** norm(out + activation(conv(x))) of the first block's input and output, [B, T, width]. */
  forward(x: Tensor, out: Tensor, { segments, mask, dropout }: EncoderInput): Tensor {
    const { hidden_size: width, conv_kernel_size: taps, conv_groups: groups, conv_act } = this.#config;
    const [batch, length] = x.shape as [number, number];
    const around = (taps - 1) / 2;
    let near = windows(pad(x, [0, 0, around, around]), 1, taps); // [B, T, width, taps]
    if (segments) {
      const theirs = windows(pad(segments, [around, around], -1), 1, taps); // [B, T, taps]
      const own = eq(theirs, reshape(segments, [batch, length, 1]));
      near = where(reshape(own, [batch, length, 1, taps]), near, 0);
    }
    const { weight, bias } = this.#conv;
    const inputs = reshape(near, [batch, length, groups, -1]);
    const matrices = reshape(weight.compute, [groups, width / groups, -1]);
    const mixed = add(reshape(einsum("btgi,goi->btgo", inputs, matrices), x.shape), bias!);
    const real = mask && reshape(mask, [batch, length, 1]);
    const kept = real ? where(real, mixed, 0) : mixed;
    const added = activation(conv_act)(dropout?.apply(kept, "residual") ?? kept);
    const normed = this.#norm.forward(add(out, added));
    return real ? where(real, normed, 0) : normed;
  }
}

/** BERT's block whose attention weighs words by what they say and by how far apart they are. */
class DebertaBlock extends Block {
  readonly #config: DebertaConfig;
  /** What makes of a distance a key and a query; null where scores have no such part. */
  readonly #placeKey: Linear | null;
  readonly #placeQuery: Linear | null;
  readonly #convolution: TextConvolution | null = null;

  constructor(root: BertEncoder, layers: string, i: number, family: Family, config: DebertaConfig) {
    const path = `${layers}.${i}`;
    super(root, path, family, encoderShape(config));
    this.#config = config;
    const { hidden_size: width, relative_attention, pos_att_type, share_att_key } = config;
    const [query, key] = this.projections;
    const own = (kind: "c2p" | "p2c", name: string, shared: Linear) => {
      if (!relative_attention || !pos_att_type.includes(kind)) return null;
      return share_att_key ? shared : place(root, `${path}.attention.self.${name}`, new Linear(width, width));
    };
    this.#placeKey = own("c2p", "pos_key_proj", key);
    this.#placeQuery = own("p2c", "pos_query_proj", query);
    if (i === 0 && config.conv_kernel_size > 0)
      this.#convolution = new TextConvolution(root, layers.replace(/layer$/, "conv"), config);
  }

  override forward(x: Tensor, input: EncoderInput): Tensor {
    const out = super.forward(x, input);
    return this.#convolution?.forward(x, out, input) ?? out;
  }

  protected override attend(heads: Heads, input: RelativeInput): Tensor {
    const { relative, mask, dropout, batchInvariant = false } = input;
    const [query, key, value] = heads.map((y) => permute(y, [0, 2, 1, 3])) as Heads; // [B, heads, T, head_dim]
    const [batch, count, length, width] = query.shape as [number, number, number, number];
    // Each part of the scores has the variance of one.
    const scale = 1 / Math.sqrt(width * (1 + new Set(this.#config.pos_att_type).size));
    const rows = relative && (dropout?.apply(relative.rows, "residual") ?? relative.rows);
    /** Products of tokens and distances, [B, heads, T, T], those of the distances that `places` names. */
    const byPlace = (tokens: Tensor, layer: Linear, places: Tensor) => {
      const there = this.split(layer.forward(rows!, { batchInvariant, dropout })); // [2 * span, heads, head_dim]
      const all = matmul(tokens, permute(there, [1, 2, 0]), { scale, batchInvariant, outDtype: "f32" });
      return gather(all, -1, expand(places, [batch, count, length, length]));
    };
    const swap = (t: Tensor) => transpose(t, -1, -2);
    const toPlace = this.#placeKey && byPlace(query, this.#placeKey, relative!.places);
    const fromPlace = this.#placeQuery && swap(byPlace(key, this.#placeQuery, swap(relative!.places)));
    const bias = toPlace && fromPlace ? add(toPlace, fromPlace) : (toPlace ?? fromPlace ?? undefined);
    const mixed = explicitAttention([query, key, value], {
      ...input,
      // In transformers padding is hidden as a query too: it takes the mean of all values.
      mask: mask && logicalAnd(mask, swap(mask)),
      causal: false,
      scale,
      bias,
    });
    return reshape(permute(mixed, [0, 2, 1, 3]), [batch, length, count * width]);
  }
}

/**
 * DeBERTa-v2 (He et al. 2021) and, with its config, DeBERTa-v3 (He et al. 2023) with the head that the config names: BERT whose
 * attention adds to the products of words those of words and distances. Parameter names and numerics are those of transformers.
 * Attention keeps its weights in memory, see `explicitAttention`.
 */
export class DebertaEncoder extends BertEncoder {
  declare readonly config: DebertaConfig;
  readonly #distances: Embedding | null = null;
  readonly #distancesNorm: LayerNorm | null = null;
  readonly #rows: Tensor | null = null;

  constructor(config: DebertaConfig) {
    super(config);
    const { relative_attention, norm_rel_ebd, hidden_size, layer_norm_eps, max_position_embeddings } = config;
    const encoder = `${this.checkpointNames.prefix}encoder`;
    if (norm_rel_ebd === "layer_norm")
      this.#distancesNorm = place(this, `${encoder}.LayerNorm`, new LayerNorm(hidden_size, layer_norm_eps));
    if (!relative_attention) return;
    const { span } = spanOf(config);
    this.#distances = place(this, `${encoder}.rel_embeddings`, new Embedding(2 * span, hidden_size));
    const rows = rowsOfDistances(config, max_position_embeddings);
    this.#rows = persist(tensor(rows, [1, rows.length], "i32"));
  }

  override dispose(): void {
    super.dispose();
    dispose(this.#rows);
  }

  protected override block(path: string, i: number, family: Family): Block {
    return new DebertaBlock(this, path, i, family, this.config);
  }

  protected override embed(input: EncoderInput): Tensor {
    const embedded = super.embed(input);
    const { mask } = input;
    return mask ? where(reshape(mask, [...embedded.shape.slice(0, 2), 1]), embedded, 0) : embedded;
  }

  override hidden(input: EncoderInput, each?: (x: Tensor) => void): Tensor {
    if (!this.#distances || !this.#rows) return super.hidden(input, each);
    const { positions } = input;
    const [batch, length] = positions.shape as [number, number];
    const apart = sub(reshape(positions, [batch, length, 1]), reshape(positions, [batch, 1, length]));
    const columns = add(apart, (this.#rows.size - 1) / 2);
    const places = reshape(gather(this.#rows, 1, reshape(columns, [1, -1])), [batch, 1, length, length]);
    const table = this.#distances.weight.compute;
    const relative = { rows: this.#distancesNorm?.forward(table) ?? table, places };
    return super.hidden({ ...input, relative } as RelativeInput, each);
  }
}
