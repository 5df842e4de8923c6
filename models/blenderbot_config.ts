import { z } from "zod";
import {
  count,
  hfCommon,
  layers,
  mostOfAnAxis,
  rate,
  refusal,
  refuseQuantized,
  type SpecialTokens,
  specialTokens,
  token,
} from "./config.ts";
import { type Activation, activations } from "./encoder_config.ts";
import { configError, parseWith } from "./formats/validation.ts";
import type { ModelShape } from "./model.ts";

const types = ["blenderbot", "blenderbot-small"] as const;

/** BlenderBot: the keys of a Hugging Face config.json with every default filled in. */
export interface BlenderbotConfig extends SpecialTokens {
  /** `blenderbot` has layer norm before each part, `blenderbot-small` behind it. */
  model_type: (typeof types)[number];
  vocab_size: number;
  d_model: number;
  encoder_layers: number;
  encoder_attention_heads: number;
  encoder_ffn_dim: number;
  decoder_layers: number;
  decoder_attention_heads: number;
  decoder_ffn_dim: number;
  /** Rows of each of the two tables of positions. */
  max_position_embeddings: number;
  activation_function: Activation;
  /** Dropout of block outputs and embeddings, of attention weights, and inside the feed-forward. */
  dropout: number;
  attention_dropout: number;
  activation_dropout: number;
  init_std: number;
  /** Whether embeddings are multiplied by sqrt(d_model). */
  scale_embedding: boolean;
  tie_word_embeddings: boolean;
  pad_token_id: number;
  /** The token that every answer begins with. */
  decoder_start_token_id: number;
  /** See `GenerationConfig`. */
  encoder_no_repeat_ngram_size: number;
  forced_eos_token_id: number | number[] | null;
}

const schemaOf = (type: BlenderbotConfig["model_type"]) => {
  const isSmall = type === "blenderbot-small";
  const [heads, inner] = isSmall ? [16, 2048] : [32, 10240];
  return z.object({
    model_type: z.literal(type),
    vocab_size: count.default(isSmall ? 50265 : 8008),
    d_model: count.default(isSmall ? 512 : 2560),
    encoder_layers: layers.default(isSmall ? 8 : 2),
    encoder_attention_heads: count.default(heads),
    encoder_ffn_dim: count.default(inner),
    decoder_layers: layers.default(isSmall ? 8 : 24),
    decoder_attention_heads: count.default(heads),
    decoder_ffn_dim: count.default(inner),
    max_position_embeddings: count.default(isSmall ? 512 : 128),
    activation_function: z.string().default("gelu"),
    dropout: rate.default(0.1),
    attention_dropout: rate.default(0),
    activation_dropout: rate.default(0),
    encoder_layerdrop: z.number().default(0),
    decoder_layerdrop: z.number().default(0),
    init_std: z.number().min(0).default(0.02),
    scale_embedding: z.boolean().default(false),
    tie_word_embeddings: z.boolean().default(true),
    is_encoder_decoder: z.boolean().default(true),
    ...specialTokens(1, 2),
    pad_token_id: token.default(0),
    decoder_start_token_id: token.default(1),
    encoder_no_repeat_ngram_size: z
      .int()
      .min(0)
      .max(mostOfAnAxis)
      .default(isSmall ? 0 : 3),
    forced_eos_token_id: z
      .union([token, z.array(token)])
      .nullable()
      .default(2),
    quantization_config: z.unknown().optional(),
  });
};
const schemas = { blenderbot: schemaOf("blenderbot"), "blenderbot-small": schemaOf("blenderbot-small") };

/** The class in transformers. */
export const blenderbotClass = (type: BlenderbotConfig["model_type"]) =>
  `Blenderbot${type === "blenderbot" ? "" : "Small"}ForConditionalGeneration`;

/**
 * Checks the content of a BlenderBot's config.json and fills in defaults. `source` is what messages call the file.
 * Throws a one-line KilnError for a wrong value and for features that kiln does not compute.
 */
export const parseBlenderbotConfig =
  (type: BlenderbotConfig["model_type"]) =>
  (value: unknown, source = "config.json"): BlenderbotConfig => {
    const { encoder_layerdrop, decoder_layerdrop, is_encoder_decoder, quantization_config, ...kept } =
      parseWith(schemas[type], value, () => source);
    const refuse = refusal(source);
    refuseQuantized(quantization_config, source);
    const { activation_function: activation, d_model } = kept;
    if (!is_encoder_decoder) throw refuse("is_encoder_decoder is false; kiln computes both halves only");
    if (encoder_layerdrop || decoder_layerdrop)
      throw refuse("encoder_layerdrop or decoder_layerdrop is not 0; kiln drops no layers");
    if (!kept.tie_word_embeddings)
      throw refuse("tie_word_embeddings is false; kiln computes one table for both halves and the logits");
    for (const key of ["encoder_attention_heads", "decoder_attention_heads"] as const)
      if (d_model % kept[key] !== 0)
        throw refuse(`d_model ${d_model} is not a multiple of ${key} ${kept[key]}`);
    if (!Object.hasOwn(activations, activation)) {
      const known = Object.keys(activations).join(", ");
      throw refuse(`activation_function is ${JSON.stringify(activation)}; kiln computes ${known}`);
    }
    return { ...kept, activation_function: activation as Activation };
  };

/** The content of a config.json. */
export function toHfBlenderbotConfig(config: BlenderbotConfig): Record<string, unknown> {
  return {
    architectures: [blenderbotClass(config.model_type)],
    ...config,
    is_encoder_decoder: true,
    encoder_layerdrop: 0,
    decoder_layerdrop: 0,
    ...hfCommon,
  };
}

/** A BlenderBot's sizes in common words; layers are those of the encoder, as in transformers. */
export function blenderbotShape(config: BlenderbotConfig): ModelShape {
  const { vocab_size, d_model, encoder_layers, max_position_embeddings, init_std } = config;
  return {
    vocab_size,
    hidden_size: d_model,
    num_hidden_layers: encoder_layers,
    max_position_embeddings,
    initializer_range: init_std,
  };
}

/** Settings of training in common words, and the keys of both halves that mean the same. */
const ownKeys: Record<string, string[]> = {
  hidden_size: ["d_model"],
  num_hidden_layers: ["encoder_layers", "decoder_layers"],
  num_attention_heads: ["encoder_attention_heads", "decoder_attention_heads"],
  intermediate_size: ["encoder_ffn_dim", "decoder_ffn_dim"],
  initializer_range: ["init_std"],
  resid_pdrop: ["dropout"],
  embd_pdrop: ["dropout"],
  attn_pdrop: ["attention_dropout"],
};

/** Settings in common words as keys of a config.json. Throws a KilnError for a setting that BlenderBot lacks. */
export function blenderbotOverrides(settings: Record<string, unknown>): Record<string, unknown> {
  const named = Object.entries(settings).flatMap(([key, value]) => {
    const keys = ownKeys[key] ?? (Object.hasOwn(schemas.blenderbot.shape, key) ? [key] : []);
    if (keys.length === 0) throw configError(`a BlenderBot has no ${key}; leave it out`);
    return keys.map((own) => [own, value]);
  });
  return Object.fromEntries(named);
}
