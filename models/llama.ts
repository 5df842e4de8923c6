import { persist } from "../core/device.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import { indexSelect, linear, linearCrossEntropy, reshape } from "../kernels/index.ts";
import {
  CausalSelfAttention,
  constantInit,
  Embedding,
  GatedMlp,
  type LayerCache,
  Linear,
  Module,
  normalInit,
  type PagedContext,
  RmsNorm,
  type SequenceContext,
} from "../nn/index.ts";
import { type LlamaConfig, ropeInverseFrequencies } from "./config.ts";

/** One block: x + attention(norm(x)), then x + mlp(norm(x)). */
class DecoderLayer extends Module {
  readonly selfAttn: CausalSelfAttention;
  readonly mlp: GatedMlp;
  readonly inputLayernorm: RmsNorm;
  readonly postAttentionLayernorm: RmsNorm;

  constructor(config: LlamaConfig) {
    super();
    const { hidden_size, intermediate_size, rms_norm_eps, mlp_bias } = config;
    this.selfAttn = new CausalSelfAttention(config);
    this.mlp = new GatedMlp(hidden_size, intermediate_size, { bias: mlp_bias });
    this.inputLayernorm = new RmsNorm(hidden_size, rms_norm_eps);
    this.postAttentionLayernorm = new RmsNorm(hidden_size, rms_norm_eps);
  }

  forward(x: Tensor, context: SequenceContext): Tensor {
    const mixed = this.selfAttn.forward(this.inputLayernorm.forward(x), x, context);
    return this.mlp.forward(this.postAttentionLayernorm.forward(mixed), mixed);
  }

  forwardPaged(x: Tensor, cache: LayerCache, context: PagedContext): Tensor {
    const mixed = this.selfAttn.forwardPaged(this.inputLayernorm.forward(x), x, cache, context);
    return this.mlp.forward(this.postAttentionLayernorm.forward(mixed), mixed, { batchInvariant: true });
  }
}

class LlamaModel extends Module {
  readonly embedTokens: Embedding;
  readonly layers: DecoderLayer[];
  readonly norm: RmsNorm;

  constructor(config: LlamaConfig) {
    super();
    this.embedTokens = new Embedding(config.vocab_size, config.hidden_size);
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new DecoderLayer(config));
    this.norm = new RmsNorm(config.hidden_size, config.rms_norm_eps);
  }
}

/** A batch of token rows: what to read and, for a loss, what to predict. */
export interface TokenBatch {
  /** [B, T] i32. */
  tokens: Tensor;
  /** [B, T] i32, the next token of each place; -100 is not supervised. */
  targets: Tensor;
  positions: Tensor;
  segments?: Tensor;
}

/**
 * Llama (Touvron et al. 2023) with a language-model head: RMS norm, rotary positions, SwiGLU, grouped keys and values.
 * Parameter names and numerics are those of transformers' `LlamaForCausalLM`, so its checkpoints load as they are.
 */
export class LlamaForCausalLM extends Module {
  readonly model: LlamaModel;
  /** Null when the head shares the embedding (`tie_word_embeddings`). */
  readonly lmHead: Linear | null;
  readonly #config: LlamaConfig;
  readonly #inverseFrequencies: Tensor;

  constructor(config: LlamaConfig) {
    super();
    this.#config = config;
    this.model = new LlamaModel(config);
    this.lmHead = config.tie_word_embeddings
      ? null
      : new Linear(config.hidden_size, config.vocab_size, { bias: false });
    this.#inverseFrequencies = persist(tensor(ropeInverseFrequencies(config)));
  }

  get config(): LlamaConfig {
    return this.#config;
  }

  /** [vocab_size, hidden_size]: the matrix that turns hidden states into logits. */
  get headWeight(): Tensor {
    return this.lmHead?.weight ?? this.model.embedTokens.weight;
  }

  /** Normal(0, initializer_range) weights; projections into the residual stream shrink with depth (Radford 2019). */
  init(seed: number): this {
    const { initializer_range: std, num_hidden_layers } = this.#config;
    const residualStd = std / Math.sqrt(2 * num_hidden_layers);
    for (const [name, parameter] of this.namedParameters()) {
      if (name.endsWith("bias")) constantInit(parameter, 0);
      else if (parameter.rank === 1) constantInit(parameter, 1);
      else normalInit(parameter, /(o_proj|down_proj)\.weight$/.test(name) ? residualStd : std, seed, name);
    }
    return this;
  }

  /** Hidden states [B, T, hidden_size] after the final norm; `each` sees the input of every block and the result. */
  hidden(
    tokens: Tensor,
    places: Pick<TokenBatch, "positions" | "segments">,
    each?: (x: Tensor) => void,
  ): Tensor {
    const context = { ...places, inverseFrequencies: this.#inverseFrequencies };
    let x = this.model.embedTokens.forward(tokens);
    for (const layer of this.model.layers) {
      each?.(x);
      x = layer.forward(x, context);
    }
    const out = this.model.norm.forward(x);
    each?.(out);
    return out;
  }

  /** Logits [B, T, vocab_size]: for tests and small batches; training uses `loss`, which never holds them all. */
  logits(hidden: Tensor): Tensor {
    return linear(hidden, this.headWeight, null);
  }

  /** Sum of -log p(target) in nats over the supervised places, as a scalar; dividing is the caller's business. */
  loss(batch: TokenBatch): Tensor {
    const hidden = this.hidden(batch.tokens, batch);
    const [rows, length, width] = hidden.shape as [number, number, number];
    const flat = reshape(hidden, [rows * length, width]);
    return linearCrossEntropy(flat, this.headWeight, reshape(batch.targets, [rows * length]), {
      ignoreIndex: -100,
    }).loss;
  }

  /**
   * Logits [R, vocab_size] of the tokens numbered `rows` [R] in a mixed batch of N tokens, whose keys and values are
   * added to the cache on the way.
   */
  logitsPaged(
    tokens: Tensor,
    cache: readonly LayerCache[],
    context: Omit<PagedContext, "inverseFrequencies">,
    rows: Tensor,
  ): Tensor {
    const full = { ...context, inverseFrequencies: this.#inverseFrequencies };
    let x = this.model.embedTokens.forward(tokens);
    this.model.layers.forEach((layer, i) => {
      x = layer.forwardPaged(x, cache[i]!, full);
    });
    const chosen = this.model.norm.forward(indexSelect(x, 0, rows));
    return linear(chosen, this.headWeight, null, { batchInvariant: true });
  }

  /** Empty keys and values for `numBlocks` blocks of `blockSize` tokens. */
  newCache(numBlocks: number, blockSize: number): LayerCache[] {
    const { num_hidden_layers, num_key_value_heads, head_dim } = this.#config;
    const shape = [numBlocks, blockSize, num_key_value_heads, head_dim];
    return persist(
      Array.from({ length: num_hidden_layers }, () => ({ key: zeros(shape), value: zeros(shape) })),
    );
  }
}
