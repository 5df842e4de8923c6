import type { Tensor } from "../core/tensor.ts";
import { add, fusedLinear, suitsFusion } from "../kernels/index.ts";
import {
  Conv1D,
  type DropoutRates,
  Embedding,
  FusedSelfAttention,
  fusable,
  type LayerCache,
  LayerNorm,
  Linear,
  Module,
  ontoResidual,
  type PagedContext,
  type Parameter,
  type QuantizedLinear,
  type RunOptions,
  type SequenceContext,
} from "../nn/index.ts";
import { CausalLM, type DecoderBlock, type DecoderShape } from "./decoder.ts";
import { Encoder, type EncoderInput } from "./encoder.ts";
import { type GPT2ClassifierConfig, type GPT2Config, gpt2Shape, toHfGpt2Config } from "./gpt2_config.ts";
import { ClassifierHead } from "./heads.ts";
import { labelNames } from "./labels.ts";

/** proj(gelu(fc(x))) with the tanh form of gelu. */
class Mlp extends Module {
  readonly cFc: Conv1D | QuantizedLinear;
  readonly cProj: Conv1D | QuantizedLinear;

  constructor(width: number, innerWidth: number) {
    super();
    this.cFc = new Conv1D(width, innerWidth);
    this.cProj = new Conv1D(innerWidth, width, { residual: true });
  }

  /** mlp(x) + residual. */
  forward(x: Tensor, residual: Tensor, options: RunOptions = {}): Tensor {
    const inner = this.cFc.forward(x, { ...options, activation: "gelu_tanh" }); // [B, T, 4 * width]
    return ontoResidual(this.cProj, inner, residual, options);
  }

  /** mlp(norm(x)) + x for single tokens x [N, width]; a token's bits do not depend on the rest of the batch. */
  forwardPaged(x: Tensor, norm: LayerNorm): Tensor {
    const { cFc, cProj } = this;
    const weights = fusable(cFc, cProj);
    if (!weights || !suitsFusion(x.device.profile, x.shape[1], { inOut: true }))
      return this.forward(norm.forward(x), x, { batchInvariant: true });
    const inner = fusedLinear(x, [weights[0]], {
      norm: norm.norm,
      bias: cFc.bias,
      activation: "gelu_tanh",
      inOut: true,
    }); // [N, 4 * width]
    return fusedLinear(inner, [weights[1]], { bias: cProj.bias, residual: x, inOut: true });
  }
}

/** One block: x + attention(norm(x)), then x + mlp(norm(x)). The norms have the names that checkpoints give them. */
class Block extends Module implements DecoderBlock {
  readonly ln_1: LayerNorm;
  readonly attn: FusedSelfAttention;
  readonly ln_2: LayerNorm;
  readonly mlp: Mlp;

  constructor(config: GPT2Config) {
    super();
    const { n_embd, n_head, n_inner, layer_norm_epsilon: eps } = config;
    this.ln_1 = new LayerNorm(n_embd, eps);
    this.attn = new FusedSelfAttention(n_embd, n_head);
    this.ln_2 = new LayerNorm(n_embd, eps);
    this.mlp = new Mlp(n_embd, n_inner ?? 4 * n_embd);
  }

  forward(x: Tensor, context: SequenceContext): Tensor {
    const mixed = this.attn.forward(this.ln_1.forward(x), x, context); // [B, T, width]
    return this.mlp.forward(this.ln_2.forward(mixed), mixed, { dropout: context.dropout });
  }

  forwardPaged(x: Tensor, cache: LayerCache, context: PagedContext): Tensor {
    const mixed = this.attn.forwardPaged(x, this.ln_1, cache, context); // [N, width]
    return this.mlp.forwardPaged(mixed, this.ln_2);
  }
}

class GPT2Model extends Module {
  readonly wte: Embedding;
  readonly wpe: Embedding;
  readonly h: Block[];
  readonly lnF: LayerNorm;

  constructor(config: GPT2Config) {
    super();
    const { vocab_size, n_positions, n_embd, n_layer, layer_norm_epsilon } = config;
    this.wte = new Embedding(vocab_size, n_embd);
    this.wpe = new Embedding(n_positions, n_embd);
    this.h = Array.from({ length: n_layer }, () => new Block(config));
    this.lnF = new LayerNorm(n_embd, layer_norm_epsilon);
  }

  /** [B, T] or [N] -> [..., width]. */
  embed(tokens: Tensor, positions: Tensor): Tensor {
    return add(this.wte.forward(tokens), this.wpe.forward(positions));
  }
}

const dropoutRates = ({ attn_pdrop, resid_pdrop, embd_pdrop }: GPT2Config): DropoutRates => ({
  attention: attn_pdrop,
  residual: resid_pdrop,
  embedding: embd_pdrop,
});

/**
 * GPT-2 (Radford et al. 2019) with a language-model head: learned positions, layer norm before each part, gelu.
 * Parameter names, layouts (`Conv1D` weights are [in, out]) and numerics are those of transformers' `GPT2LMHeadModel`,
 * so its checkpoints load as they are.
 */
export class GPT2LMHeadModel extends CausalLM {
  readonly transformer: GPT2Model;
  /** Null when the head shares the embedding (`tie_word_embeddings`), as in every published GPT-2. */
  readonly lmHead: Linear | null;
  readonly config: GPT2Config;
  readonly shape: DecoderShape;
  readonly checkpointNames = {
    prefix: "transformer.",
    buffers: /\.attn\.(masked_)?bias$/,
    tied: { "lm_head.weight": "transformer.wte.weight" },
  };

  constructor(config: GPT2Config) {
    super();
    this.config = config;
    this.shape = gpt2Shape(config);
    this.transformer = new GPT2Model(config);
    this.lmHead = config.tie_word_embeddings
      ? null
      : new Linear(config.n_embd, config.vocab_size, { bias: false });
    if (this.lmHead) this.lmHead.weight.perToken = true;
  }

  get dropoutRates(): DropoutRates {
    return dropoutRates(this.config);
  }

  get headWeight(): Parameter {
    return this.lmHead?.weight ?? this.transformer.wte.weight;
  }

  protected get blocks(): readonly DecoderBlock[] {
    return this.transformer.h;
  }

  embed(tokens: Tensor, positions: Tensor): Tensor {
    return this.transformer.embed(tokens, positions);
  }

  protected get finalNorm(): LayerNorm {
    return this.transformer.lnF;
  }

  /**
   * With `bias: false` in the config, as nanoGPT trains, biases start at zero and stay there: the model computes as if it
   * had none, and every reader of GPT-2 can load its checkpoint.
   */
  override trainedParameters(): Map<string, Parameter> {
    const all = super.trainedParameters();
    if (this.config.bias !== false) return all;
    return new Map([...all].filter(([name]) => !name.endsWith(".bias")));
  }

  toHfConfig(): Record<string, unknown> {
    return toHfGpt2Config(this.config);
  }
}

/**
 * GPT-2 with a linear layer that reads labels from each text's last token, as transformers' `GPT2ForSequenceClassification`.
 * Attention is causal, so padding after a text changes nothing.
 */
export class GPT2ForSequenceClassification extends Encoder {
  readonly transformer: GPT2Model;
  readonly score: Linear;
  readonly config: GPT2ClassifierConfig;
  readonly shape: DecoderShape;
  readonly decidingToken = "last";
  readonly checkpointNames = {
    prefix: "transformer.",
    buffers: /\.attn\.(masked_)?bias$|^lm_head\./,
    tied: {},
  };

  constructor(config: GPT2ClassifierConfig) {
    super();
    this.config = config;
    this.shape = gpt2Shape(config);
    this.transformer = new GPT2Model(config);
    this.score = new Linear(config.n_embd, labelNames(config).length, { bias: false });
  }

  get dropoutRates(): DropoutRates {
    return dropoutRates(this.config);
  }

  protected get head(): ClassifierHead {
    return new ClassifierHead(this.score);
  }

  hidden({ tokens, ...context }: EncoderInput, each?: (x: Tensor) => void): Tensor {
    const { transformer } = this;
    const embedded = transformer.embed(tokens, context.positions); // [B, T, width]
    const out = transformer.lnF.forward(this.throughBlocks(transformer.h, embedded, context, each));
    each?.(out);
    return out;
  }

  toHfConfig(): Record<string, unknown> {
    return toHfGpt2Config(this.config);
  }
}
