import { dispose, persist } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import {
  CausalSelfAttention,
  type DropoutRates,
  Embedding,
  GatedMlp,
  type LayerCache,
  Linear,
  Module,
  type PagedContext,
  type Parameter,
  RmsNorm,
  type SequenceContext,
} from "../nn/index.ts";
import { CausalLM, type DecoderBlock, type DecoderShape } from "./decoder.ts";
import { type LlamaConfig, ropeInverseFrequencies, toHfLlamaConfig } from "./llama_config.ts";

/** One block: x + attention(norm(x)), then x + mlp(norm(x)). */
class DecoderLayer extends Module implements DecoderBlock {
  readonly selfAttn: CausalSelfAttention;
  readonly mlp: GatedMlp;
  readonly inputLayernorm: RmsNorm;
  readonly postAttentionLayernorm: RmsNorm;

  constructor(config: LlamaConfig, inverseFrequencies: Tensor) {
    super();
    const { hidden_size, intermediate_size, rms_norm_eps, mlp_bias } = config;
    this.selfAttn = new CausalSelfAttention(config, inverseFrequencies);
    this.mlp = new GatedMlp(hidden_size, intermediate_size, { bias: mlp_bias });
    this.inputLayernorm = new RmsNorm(hidden_size, rms_norm_eps);
    this.postAttentionLayernorm = new RmsNorm(hidden_size, rms_norm_eps);
  }

  forward(x: Tensor, context: SequenceContext): Tensor {
    const mixed = this.selfAttn.forward(this.inputLayernorm.forward(x), x, context); // [B, T, hidden]
    return this.mlp.forward(this.postAttentionLayernorm.forward(mixed), mixed, { dropout: context.dropout });
  }

  forwardPaged(x: Tensor, cache: LayerCache, context: PagedContext): Tensor {
    const mixed = this.selfAttn.forwardPaged(x, this.inputLayernorm, cache, context); // [N, hidden]
    return this.mlp.forwardPaged(mixed, this.postAttentionLayernorm);
  }
}

class LlamaModel extends Module {
  readonly embedTokens: Embedding;
  readonly layers: DecoderLayer[];
  readonly norm: RmsNorm;
  readonly #inverseFrequencies: Tensor;

  constructor(config: LlamaConfig) {
    super();
    const inverseFrequencies = persist(tensor(ropeInverseFrequencies(config))); // [head_dim / 2]
    this.#inverseFrequencies = inverseFrequencies;
    this.embedTokens = new Embedding(config.vocab_size, config.hidden_size);
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      () => new DecoderLayer(config, inverseFrequencies),
    );
    this.norm = new RmsNorm(config.hidden_size, config.rms_norm_eps);
  }

  /** Frees what is no part of the checkpoint. */
  dispose(): void {
    dispose(this.#inverseFrequencies);
  }
}

/**
 * Llama (Touvron et al. 2023) with a language-model head: RMS norm, rotary positions, SwiGLU, grouped keys and values.
 * Parameter names and numerics are those of transformers' `LlamaForCausalLM`, so its checkpoints load as they are.
 */
export class LlamaForCausalLM extends CausalLM {
  readonly model: LlamaModel;
  /** Null when the head shares the embedding (`tie_word_embeddings`). */
  readonly lmHead: Linear | null;
  readonly config: LlamaConfig;
  readonly checkpointNames = {
    prefix: "model.",
    buffers: /rotary_emb\.inv_freq$/,
    tied: { "lm_head.weight": "model.embed_tokens.weight" },
  };

  constructor(config: LlamaConfig) {
    super();
    this.config = config;
    this.model = new LlamaModel(config);
    this.lmHead = config.tie_word_embeddings
      ? null
      : new Linear(config.hidden_size, config.vocab_size, { bias: false });
    if (this.lmHead) this.lmHead.weight.perToken = true;
  }

  /** The config itself: its keys already have the common names. */
  get shape(): DecoderShape {
    return this.config;
  }

  get dropoutRates(): DropoutRates {
    const { attention_dropout, resid_pdrop = 0, embd_pdrop = 0 } = this.config;
    return { attention: attention_dropout, residual: resid_pdrop, embedding: embd_pdrop };
  }

  get headWeight(): Parameter {
    return this.lmHead?.weight ?? this.model.embedTokens.weight;
  }

  protected get blocks(): readonly DecoderBlock[] {
    return this.model.layers;
  }

  embed(tokens: Tensor): Tensor {
    return this.model.embedTokens.forward(tokens); // [B, T] or [N] -> [..., hidden]
  }

  protected get finalNorm(): RmsNorm {
    return this.model.norm;
  }

  override dispose(): void {
    super.dispose();
    this.model.dispose();
  }

  toHfConfig(): Record<string, unknown> {
    return toHfLlamaConfig(this.config);
  }
}
