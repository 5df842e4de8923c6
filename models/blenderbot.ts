import { type Tensor, zeros } from "../core/tensor.ts";
import { add, arange, expand, linear, mul, reshape } from "../kernels/index.ts";
import {
  Buffer,
  type DropoutRates,
  Embedding,
  type LayerCache,
  LayerNorm,
  Linear,
  Module,
  MultiHeadAttention,
  ontoResidual,
  type RunOptions,
  type SequenceContext,
} from "../nn/index.ts";
import { type BlenderbotConfig, blenderbotShape, toHfBlenderbotConfig } from "./blenderbot_config.ts";
import { activationOf } from "./encoder_config.ts";
import { type BeamContext, EncoderDecoder, type SourceTexts } from "./encoder_decoder.ts";
import type { Block, ModelShape } from "./model.ts";

/** What one half is made of. */
interface Half {
  layers: number;
  heads: number;
  innerWidth: number;
  crosses: boolean;
}

/** What a layer reads besides the half's hidden states: in the decoder the encoder's result, and which of it is no padding. */
interface LayerContext extends SequenceContext, RunOptions {
  source?: Tensor;
  sourceMask?: Tensor | undefined;
}

type Part = (x: Tensor, residual: Tensor) => Tensor;

/** Attention to the half's own tokens, in the decoder attention to the encoder's, and a feed-forward. */
class Layer extends Module implements Block<LayerContext> {
  readonly selfAttn: MultiHeadAttention;
  readonly selfAttnLayerNorm: LayerNorm;
  readonly encoderAttn: MultiHeadAttention | null;
  readonly encoderAttnLayerNorm: LayerNorm | null;
  readonly fc1: Linear;
  readonly fc2: Linear;
  readonly finalLayerNorm: LayerNorm;
  readonly #config: BlenderbotConfig;

  constructor(config: BlenderbotConfig, { heads, innerWidth, crosses }: Half) {
    super();
    const { d_model: width } = config;
    this.#config = config;
    this.selfAttn = new MultiHeadAttention(width, heads);
    this.selfAttnLayerNorm = new LayerNorm(width);
    this.encoderAttn = crosses ? new MultiHeadAttention(width, heads) : null;
    this.encoderAttnLayerNorm = crosses ? new LayerNorm(width) : null;
    this.fc1 = new Linear(width, innerWidth);
    this.fc2 = new Linear(innerWidth, width);
    this.finalLayerNorm = new LayerNorm(width);
  }

  /** [B, T, width] to the same shape. */
  forward(x: Tensor, { source, sourceMask: mask, ...context }: LayerContext): Tensor {
    const { dropout, batchInvariant = false } = context;
    return this.#through(
      x,
      (y, residual) => this.selfAttn.forward(y, y, residual, context),
      (y, residual) => this.encoderAttn!.forward(y, source!, residual, { ...context, mask, causal: false }),
      { dropout, batchInvariant },
    );
  }

  /** `forward` for single tokens [N, width] of answers in writing. */
  forwardPaged(x: Tensor, cache: LayerCache, sourceCache: LayerCache, { own, source }: BeamContext): Tensor {
    return this.#through(
      x,
      (y, residual) => this.selfAttn.forwardPaged(y, residual, cache, own),
      (y, residual) => this.encoderAttn!.forwardPaged(y, residual, sourceCache, source),
      { batchInvariant: true },
    );
  }

  #through(x: Tensor, own: Part, crossing: Part, run: RunOptions): Tensor {
    const around = (norm: LayerNorm, y: Tensor, part: Part) =>
      this.#config.model_type === "blenderbot" ? part(norm.forward(y), y) : norm.forward(part(y, y));
    const mixed = around(this.selfAttnLayerNorm, x, own);
    const norm = this.encoderAttnLayerNorm;
    return around(this.finalLayerNorm, norm ? around(norm, mixed, crossing) : mixed, (y, residual) => {
      const inner = this.fc1.forward(y, {
        ...run,
        activation: activationOf(this.#config.activation_function),
      });
      const kept = run.dropout?.draw(inner, this.#config.activation_dropout) ?? inner;
      return ontoResidual(this.fc2, kept, residual, run);
    });
  }
}

/** The encoder or the decoder without the table of tokens, which both share. */
class Stack extends Module {
  readonly embedPositions: Embedding;
  readonly layers: Layer[];
  /** Of the result, where norms stand before each part; else of the embeddings. */
  readonly layerNorm: LayerNorm | null;
  readonly layernormEmbedding: LayerNorm | null;

  constructor(config: BlenderbotConfig, half: Half) {
    super();
    const { d_model: width, max_position_embeddings, model_type } = config;
    this.embedPositions = new Embedding(max_position_embeddings, width);
    this.layers = Array.from({ length: half.layers }, () => new Layer(config, half));
    const norm = new LayerNorm(width);
    this.layerNorm = model_type === "blenderbot" ? norm : null;
    this.layernormEmbedding = model_type === "blenderbot" ? null : norm;
  }
}

class BlenderbotModel extends Module {
  readonly shared: Embedding;
  readonly encoder: Stack;
  readonly decoder: Stack;

  constructor(config: BlenderbotConfig) {
    super();
    this.shared = new Embedding(config.vocab_size, config.d_model);
    this.encoder = new Stack(config, {
      layers: config.encoder_layers,
      heads: config.encoder_attention_heads,
      innerWidth: config.encoder_ffn_dim,
      crosses: false,
    });
    this.decoder = new Stack(config, {
      layers: config.decoder_layers,
      heads: config.decoder_attention_heads,
      innerWidth: config.decoder_ffn_dim,
      crosses: true,
    });
  }
}

/**
 * BlenderBot (Roller et al. 2020), an encoder of what was said and a decoder of the answer: learned positions, layer norm
 * before each part (in `blenderbot-small` behind it), gelu. Parameter names and numerics are those of transformers'
 * `BlenderbotForConditionalGeneration` and `BlenderbotSmallForConditionalGeneration`, so their checkpoints load as they are.
 */
export class Blenderbot extends EncoderDecoder {
  readonly model: BlenderbotModel;
  /** [1, vocab_size], added to the logits and never trained. */
  readonly finalLogitsBias: Buffer;
  readonly config: BlenderbotConfig;
  readonly shape: ModelShape;
  readonly checkpointNames = {
    prefix: "model.",
    buffers: /(?!)/,
    tied: {
      "lm_head.weight": "model.shared.weight",
      "model.encoder.embed_tokens.weight": "model.shared.weight",
      "model.decoder.embed_tokens.weight": "model.shared.weight",
    },
  };

  constructor(config: BlenderbotConfig) {
    super();
    this.config = config;
    this.shape = blenderbotShape(config);
    this.model = new BlenderbotModel(config);
    this.finalLogitsBias = new Buffer(zeros([1, config.vocab_size]));
  }

  get dropoutRates(): DropoutRates {
    const { dropout, attention_dropout: attention } = this.config;
    return { attention, residual: dropout, embedding: dropout };
  }

  override get dropsOut(): boolean {
    return super.dropsOut || this.config.activation_dropout > 0;
  }

  encode({ tokens, ...context }: SourceTexts, each?: (x: Tensor) => void): Tensor {
    return this.#run(this.model.encoder, tokens, { ...context, causal: false }, each);
  }

  decode(tokens: Tensor, encoded: Tensor, source: SourceTexts, each?: (x: Tensor) => void): Tensor {
    const { mask: sourceMask, tokens: _, ...run } = source;
    return this.#run(this.model.decoder, tokens, { ...run, source: encoded, sourceMask }, each);
  }

  #run(
    stack: Stack,
    tokens: Tensor,
    context: Omit<LayerContext, "positions">,
    each?: (x: Tensor) => void,
  ): Tensor {
    const [rows, length] = tokens.shape;
    const positions = expand(reshape(arange(length), [1, length]), [rows, length]);
    const embedded = this.#embed(stack, tokens, positions); // [B, T, width]
    const x = this.throughBlocks(stack.layers, embedded, { ...context, positions }, each);
    const out = stack.layerNorm?.forward(x) ?? x;
    each?.(out);
    return out;
  }

  /** The input of a half's first layer [..., width], from ids and positions [...]. */
  #embed({ embedPositions, layernormEmbedding: norm }: Stack, tokens: Tensor, positions: Tensor): Tensor {
    const rows = this.model.shared.forward(tokens);
    const places = embedPositions.forward(positions);
    // The small model's decoder, unlike its encoder, adds positions behind the norm, and its embeddings are never scaled.
    if (norm && embedPositions === this.model.decoder.embedPositions) return add(norm.forward(rows), places);
    const { scale_embedding, d_model } = this.config;
    const sum = add(scale_embedding ? mul(rows, Math.sqrt(d_model)) : rows, places);
    return norm?.forward(sum) ?? sum;
  }

  logits(hidden: Tensor, { batchInvariant = false }: RunOptions = {}): Tensor {
    const bias = reshape(this.finalLogitsBias, [-1]);
    return linear(hidden, this.model.shared.weight.compute, bias, { batchInvariant, outDtype: "f32" });
  }

  logitsCached(
    tokens: Tensor,
    cache: readonly LayerCache[],
    sourceCache: readonly LayerCache[],
    context: BeamContext,
  ): Tensor {
    const { decoder } = this.model;
    let x = this.#embed(decoder, tokens, context.own.positions); // [N, width]
    decoder.layers.forEach((layer, i) => {
      x = layer.forwardPaged(x, cache[i], sourceCache[i], context);
    });
    return this.logits(decoder.layerNorm?.forward(x) ?? x, { batchInvariant: true });
  }

  keysValues(encoded: Tensor): [key: Tensor, value: Tensor][] {
    const run = { batchInvariant: true };
    return this.model.decoder.layers.map(({ encoderAttn }) => encoderAttn!.keysValues(encoded, run));
  }

  toHfConfig(): Record<string, unknown> {
    return toHfBlenderbotConfig(this.config);
  }
}
