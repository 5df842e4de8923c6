import { z } from "zod";
import type { KilnError } from "../core/errors.ts";
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
import { configError, parseWith } from "./formats/validation.ts";

/** Rotary position settings, with the names and meaning of transformers' `rope_parameters`. */
export interface RopeParameters {
  rope_type: "default" | "linear" | "llama3";
  rope_theta: number;
  /** linear, llama3: how many times longer the context is than the one trained on. */
  factor?: number;
  /** llama3 only: wavelengths above original / low_freq_factor are stretched by `factor`. */
  low_freq_factor?: number;
  /** llama3 only: wavelengths below original / high_freq_factor are kept. */
  high_freq_factor?: number;
  /** llama3 only: the context length before stretching, in tokens. */
  original_max_position_embeddings?: number;
}

/** A Llama model's shape: the keys of a Hugging Face config.json with every default filled in. */
export interface LlamaConfig extends SpecialTokens {
  model_type: "llama";
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  /** Equal to num_attention_heads if each query head has its own keys and values. */
  num_key_value_heads: number;
  head_dim: number;
  max_position_embeddings: number;
  rms_norm_eps: number;
  hidden_act: "silu";
  attention_bias: boolean;
  mlp_bias: boolean;
  /** Dropout of attention weights in training. */
  attention_dropout: number;
  /** Dropout of block outputs and embeddings in training, under GPT-2's names; transformers has neither for Llama. */
  resid_pdrop?: number | undefined;
  embd_pdrop?: number | undefined;
  tie_word_embeddings: boolean;
  rope_parameters: RopeParameters;
  initializer_range: number;
}

const positive = z.number().positive();

const ropeSchema = z.object({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: positive.optional(),
  factor: positive.optional(),
  low_freq_factor: positive.optional(),
  high_freq_factor: positive.optional(),
  original_max_position_embeddings: count.optional(),
  partial_rotary_factor: z.number().optional(),
});

/**
 * The keys that decide what a Llama computes; config.json has others, which are ignored. Defaults: those of transformers.
 */
const fileSchema = z.object({
  model_type: z.literal("llama").default("llama"),
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: layers,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  max_position_embeddings: count.default(2048),
  rms_norm_eps: positive.default(1e-6),
  hidden_act: z.string().default("silu"),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  attention_dropout: rate.default(0),
  resid_pdrop: rate.optional(),
  embd_pdrop: rate.optional(),
  tie_word_embeddings: z.boolean().default(false),
  rope_theta: positive.optional(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  initializer_range: z.number().min(0).default(0.02),
  ...specialTokens(1, 2),
  quantization_config: z.unknown().optional(),
  partial_rotary_factor: z.number().nullish(),
  sliding_window: z.int().nullish(),
  use_sliding_window: z.boolean().nullish(),
});
type FileConfig = z.output<typeof fileSchema>;

/**
 * Checks the content of a config.json and fills in defaults. `source` is what messages call the file.
 * Throws a one-line KilnError for a wrong or missing value, another model_type, and features that kiln does not compute.
 */
export function parseLlamaConfig(value: unknown, source = "config.json"): LlamaConfig {
  const file = parseWith(fileSchema, value, () => source);
  const refuse = refusal(source);
  if (file.hidden_act !== "silu") {
    throw refuse(`hidden_act is ${JSON.stringify(file.hidden_act)}; kiln computes Llama with "silu" only`);
  }
  refuseQuantized(file.quantization_config, source);
  const heads = file.num_attention_heads;
  const keyValueHeads = file.num_key_value_heads ?? heads;
  if (heads % keyValueHeads !== 0) {
    throw refuse(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${keyValueHeads}`);
  }
  if (file.head_dim == null && file.hidden_size % heads !== 0) {
    throw refuse(
      `hidden_size ${file.hidden_size} is not a multiple of num_attention_heads ${heads}; give head_dim`,
    );
  }
  const headDim = file.head_dim ?? file.hidden_size / heads;
  if (headDim % 2 !== 0) throw refuse(`head_dim is ${headDim}; rotary positions need an even number`);
  const window = file.use_sliding_window === false ? null : (file.sliding_window ?? null);
  if (window !== null && window < file.max_position_embeddings) {
    throw refuse(
      `sliding_window is ${window}; kiln attends to the whole context (max_position_embeddings may be lowered to the window)`,
    );
  }
  const rope = resolveRope(file, refuse);
  const {
    rope_theta: _theta,
    rope_scaling: _scaling,
    quantization_config: _quantization,
    partial_rotary_factor: _partial,
    sliding_window: _window,
    use_sliding_window: _use,
    ...kept
  } = file;
  return {
    ...kept,
    hidden_act: "silu",
    num_key_value_heads: keyValueHeads,
    head_dim: headDim,
    rope_parameters: rope,
  };
}

/** The rotary settings in one form, from either spelling: `rope_parameters`, or `rope_theta` and `rope_scaling`. */
function resolveRope(file: FileConfig, refuse: (problem: string) => KilnError): RopeParameters {
  const legacy = () => resolveRopeForm(file.rope_scaling ?? {}, "rope_scaling", file, refuse);
  if (!file.rope_parameters) return legacy();
  const rope = resolveRopeForm(file.rope_parameters, "rope_parameters", file, refuse);
  if ((file.rope_theta ?? rope.rope_theta) !== rope.rope_theta) {
    throw refuse(`rope_theta is ${file.rope_theta}, in rope_parameters ${rope.rope_theta}; keep one of them`);
  }
  if (file.rope_scaling && JSON.stringify(legacy()) !== JSON.stringify(rope)) {
    throw refuse("rope_scaling and rope_parameters describe different rotations; keep one of them");
  }
  return rope;
}

function resolveRopeForm(
  given: NonNullable<FileConfig["rope_parameters"]>,
  key: string,
  file: FileConfig,
  refuse: (problem: string) => KilnError,
): RopeParameters {
  const type = given.rope_type ?? given.type ?? (given.factor === undefined ? "default" : null);
  const theta = given.rope_theta ?? file.rope_theta ?? file.rope_parameters?.rope_theta ?? 10000;
  const share = given.partial_rotary_factor ?? file.partial_rotary_factor ?? 1;
  if (share !== 1) throw refuse(`partial_rotary_factor is ${share}; kiln rotates whole heads only`);
  if (type === null) throw refuse(`${key} has a factor but no rope_type; say linear or llama3`);
  if (type === "default") return { rope_type: "default", rope_theta: theta };
  if (type !== "linear" && type !== "llama3") {
    throw refuse(`${key} has rope_type ${JSON.stringify(type)}; kiln computes default, linear and llama3`);
  }
  const need = (name: "factor" | "low_freq_factor" | "high_freq_factor"): number => {
    const value = given[name];
    if (value === undefined) throw refuse(`${key} of rope_type ${type} lacks ${name}`);
    return value;
  };
  if (type === "linear") return { rope_type: "linear", rope_theta: theta, factor: need("factor") };
  const low = need("low_freq_factor");
  const high = need("high_freq_factor");
  if (high <= low)
    throw refuse(`${key}.high_freq_factor ${high} must be greater than low_freq_factor ${low}`);
  return {
    rope_type: "llama3",
    rope_theta: theta,
    factor: need("factor"),
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: given.original_max_position_embeddings ?? file.max_position_embeddings,
  };
}

/**
 * The content of a config.json. Rotary settings are written in both forms: transformers 5 reads `rope_parameters`, older
 * versions and Ollama's importer read `rope_theta` and `rope_scaling`.
 */
export function toHfLlamaConfig(config: LlamaConfig): Record<string, unknown> {
  const { rope_theta, ...scaling } = config.rope_parameters;
  return {
    architectures: ["LlamaForCausalLM"],
    ...config,
    rope_theta,
    rope_scaling: scaling.rope_type === "default" ? null : scaling,
    pretraining_tp: 1,
    ...hfCommon,
  };
}

/** Keys of a LlamaConfig that a preset lets its user change. */
export type LlamaOverrides = Partial<Omit<LlamaConfig, "model_type">>;

/**
 * TinyLLM: a Llama of 4 layers, 4 heads and width 128, tied embeddings. Any key may be overridden; without its own value,
 * intermediate_size is 8/3 of hidden_size rounded up to a multiple of 16 (SwiGLU then has the size of a 4x MLP).
 */
export function tinyllmConfig(overrides: LlamaOverrides & { vocab_size: number }): LlamaConfig {
  const hiddenSize = overrides.hidden_size ?? 128;
  const preset = {
    model_type: "llama",
    hidden_size: hiddenSize,
    intermediate_size: Math.ceil((hiddenSize * 8) / 3 / 16) * 16,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_parameters: { rope_type: "default", rope_theta: 10000 },
    tie_word_embeddings: true,
  };
  return parseLlamaConfig({ ...preset, ...overrides }, "the model settings");
}

/**
 * The rotation speed of each pair of a head's elements, radians per position: float64 [head_dim / 2]. default:
 * theta^(-2i/head_dim); linear: that divided by factor; llama3: divided for long wavelengths, kept for short ones and
 * blended in between (`_compute_llama3_parameters` in transformers' modeling_rope_utils).
 */
export function ropeInverseFrequencies(
  config: Pick<LlamaConfig, "head_dim" | "rope_parameters">,
): Float64Array {
  const rope = config.rope_parameters;
  const frequencies = Float64Array.from(
    { length: config.head_dim / 2 },
    (_, i) => rope.rope_theta ** ((-2 * i) / config.head_dim),
  );
  const factor = rope.factor ?? 1;
  if (rope.rope_type === "linear") return frequencies.map((frequency) => frequency / factor);
  if (rope.rope_type === "default") return frequencies;
  const low = rope.low_freq_factor ?? 1;
  const high = rope.high_freq_factor ?? 4;
  const original = rope.original_max_position_embeddings ?? 8192;
  return frequencies.map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI);
    if (turns < low) return frequency / factor;
    if (turns > high) return frequency;
    const kept = (turns - low) / (high - low);
    return kept * frequency + ((1 - kept) * frequency) / factor;
  });
}

/** Turns settings under common names into keys of a Llama's config.json. Throws a KilnError for one that Llama lacks. */
export function llamaOverrides(settings: Record<string, unknown>): Record<string, unknown> {
  const { attn_pdrop, rope_theta, bias, ...others } = settings;
  if (bias !== undefined) throw configError("a Llama has no bias; leave it out");
  return {
    ...others,
    ...(attn_pdrop === undefined ? {} : { attention_dropout: attn_pdrop }),
    // In every spelling, so that it contradicts none in a file.
    ...(rope_theta === undefined
      ? {}
      : { rope_theta, rope_scaling: null, rope_parameters: { rope_type: "default", rope_theta } }),
  };
}
