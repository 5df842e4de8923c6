import { z } from "zod";
import {
  count,
  hfCommon,
  layers,
  rate,
  refusal,
  refuseQuantized,
  type SpecialTokens,
  specialTokens,
} from "./config.ts";
import type { DecoderShape } from "./decoder.ts";
import { configError, parseWith } from "./formats/validation.ts";
import { type LabelKeys, parseLabels } from "./labels.ts";

/** A GPT-2's shape: the keys of a Hugging Face config.json with every default filled in. */
export interface GPT2Config extends SpecialTokens {
  model_type: "gpt2";
  vocab_size: number;
  /** Rows of the table of learned positions: the longest context in tokens. */
  n_positions: number;
  n_embd: number;
  n_layer: number;
  n_head: number;
  /** Width inside the MLP; null is 4 * n_embd. */
  n_inner: number | null;
  activation_function: "gelu_new";
  layer_norm_epsilon: number;
  /** Dropout of block outputs, embeddings and attention weights in training. */
  resid_pdrop: number;
  embd_pdrop: number;
  attn_pdrop: number;
  initializer_range: number;
  tie_word_embeddings: boolean;
  /** False: products and norms have no biases, which checkpoints then hold as zeros. Not a key of transformers. */
  bias?: boolean | undefined;
}

/** The keys that decide what a GPT-2 computes; others in the file are ignored. Defaults: those of transformers. */
const fileSchema = z.object({
  model_type: z.literal("gpt2"),
  vocab_size: count.default(50257),
  n_positions: count.default(1024),
  n_embd: count.default(768),
  n_layer: layers.default(12),
  n_head: count.default(12),
  n_inner: count.nullish(),
  activation_function: z.string().default("gelu_new"),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  resid_pdrop: rate.default(0.1),
  embd_pdrop: rate.default(0.1),
  attn_pdrop: rate.default(0.1),
  initializer_range: z.number().min(0).default(0.02),
  tie_word_embeddings: z.boolean().default(true),
  bias: z.boolean().optional(),
  ...specialTokens(50256, 50256),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  add_cross_attention: z.boolean().default(false),
  quantization_config: z.unknown().optional(),
});

/**
 * Checks the content of a GPT-2 config.json and fills in defaults. `source` is what messages call the file.
 * Throws a one-line KilnError for a wrong value, another model_type, and features that kiln does not compute.
 */
export function parseGpt2Config(value: unknown, source = "config.json"): GPT2Config {
  const {
    scale_attn_weights: scales,
    scale_attn_by_inverse_layer_idx: scalesByLayer,
    add_cross_attention: crosses,
    quantization_config: quantization,
    activation_function: activation,
    ...kept
  } = parseWith(fileSchema, value, () => source);
  const refuse = refusal(source);
  if (activation !== "gelu_new") {
    const name = JSON.stringify(activation);
    throw refuse(`activation_function is ${name}; kiln computes GPT-2 with "gelu_new" only`);
  }
  if (!scales) throw refuse("scale_attn_weights is false; kiln always divides scores by sqrt(head width)");
  if (scalesByLayer)
    throw refuse("scale_attn_by_inverse_layer_idx is true; kiln scales every layer's scores alike");
  if (crosses)
    throw refuse("add_cross_attention is true; kiln computes decoders that attend to themselves only");
  refuseQuantized(quantization, source);
  if (kept.n_embd % kept.n_head !== 0) {
    throw refuse(`n_embd ${kept.n_embd} is not a multiple of n_head ${kept.n_head}`);
  }
  return { ...kept, activation_function: activation, n_inner: kept.n_inner ?? null };
}

export type GPT2ClassifierConfig = GPT2Config & LabelKeys;

/** The same for a GPT-2 with a head for labels. */
export function parseGpt2ClassifierConfig(value: unknown, source = "config.json"): GPT2ClassifierConfig {
  return { ...parseGpt2Config(value, source), ...parseLabels(value, "GPT2", source) };
}

/** The content of a config.json. */
export function toHfGpt2Config(config: GPT2Config): Record<string, unknown> {
  return {
    architectures: ["GPT2LMHeadModel"],
    ...config,
    scale_attn_weights: true,
    scale_attn_by_inverse_layer_idx: false,
    reorder_and_upcast_attn: false,
    add_cross_attention: false,
    ...hfCommon,
  };
}

/**
 * GPT-2 small (124M parameters) with overrides under GPT-2's own names. Unlike the published model it has no dropout, which
 * text that is read once or twice does not need.
 */
export function gpt2PresetConfig(overrides: Record<string, unknown>): GPT2Config {
  const preset = { model_type: "gpt2", resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  return parseGpt2Config({ ...preset, ...overrides }, "the model settings");
}

/** A GPT-2's sizes under common names. */
export function gpt2Shape(config: GPT2Config): DecoderShape {
  const { vocab_size, initializer_range, n_embd, n_layer, n_head, n_positions } = config;
  return {
    vocab_size,
    hidden_size: n_embd,
    num_hidden_layers: n_layer,
    num_key_value_heads: n_head,
    head_dim: n_embd / n_head,
    max_position_embeddings: n_positions,
    initializer_range,
  };
}

/** GPT-2's names of sizes that other decoders' configs name differently (`attribute_map` in transformers). */
const ownNames = {
  hidden_size: "n_embd",
  intermediate_size: "n_inner",
  num_hidden_layers: "n_layer",
  num_attention_heads: "n_head",
  max_position_embeddings: "n_positions",
} as const;

/**
 * Turns settings under common names (hidden_size, …) into keys of a GPT-2's config.json. Throws a KilnError for a setting
 * that GPT-2 does not have, such as rope_theta.
 */
export function gpt2Overrides(settings: Record<string, unknown>): Record<string, unknown> {
  const named = Object.entries(settings).map(([key, value]) => {
    if (key in ownNames) return [ownNames[key as keyof typeof ownNames], value];
    if (Object.hasOwn(fileSchema.shape, key)) return [key, value];
    throw configError(`a GPT-2 has no ${key}; leave it out`);
  });
  return Object.fromEntries(named);
}
