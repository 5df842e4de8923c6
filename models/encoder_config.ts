import { z } from "zod";
import type { KilnError } from "../core/errors.ts";
import {
  count,
  hfCommon,
  rate,
  refusal,
  refuseQuantized,
  type SpecialTokens,
  specialTokens,
} from "./config.ts";
import { configError, parseWith } from "./formats/validation.ts";
import { classFor, type LabelKeys, parseLabels, type Task, taskOf, tasks } from "./labels.ts";
import type { ModelShape } from "./model.ts";

/** BERT and RoBERTa: the keys of a Hugging Face config.json with every default filled in. */
export interface BertConfig extends LabelKeys, SpecialTokens {
  model_type: "bert" | "roberta";
  vocab_size: number;
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  intermediate_size: number;
  hidden_act: string;
  /** Dropout of block outputs and embeddings, of attention weights, and before a classifier (null: the first). */
  hidden_dropout_prob: number;
  attention_probs_dropout_prob: number;
  classifier_dropout: number | null;
  /** Rows of the table of positions; RoBERTa leaves the first pad_token_id + 1 unused. */
  max_position_embeddings: number;
  type_vocab_size: number;
  initializer_range: number;
  layer_norm_eps: number;
  pad_token_id: number;
  tie_word_embeddings: boolean;
}

/** DistilBERT, in its own words. */
export interface DistilBertConfig extends LabelKeys, SpecialTokens {
  model_type: "distilbert";
  vocab_size: number;
  max_position_embeddings: number;
  dim: number;
  n_layers: number;
  n_heads: number;
  hidden_dim: number;
  activation: string;
  /** Dropout of feed-forward outputs and embeddings, of attention weights, before classifiers, before the span's logits. */
  dropout: number;
  attention_dropout: number;
  seq_classif_dropout: number;
  qa_dropout: number;
  initializer_range: number;
  pad_token_id: number;
  tie_word_embeddings: boolean;
}

export type EncoderConfig = BertConfig | DistilBertConfig;

/** What an encoder computes with, in common words. */
export interface EncoderShape extends ModelShape {
  num_attention_heads: number;
  intermediate_size: number;
  hidden_act: keyof typeof activations;
  layer_norm_eps: number;
  /** Rows of the table of token types; 0 where there is none. */
  type_vocab_size: number;
  /** The row of the table of positions that belongs to a text's first token. */
  first_position: number;
  pad_token_id: number;
  dropout: { hidden: number; attention: number; head: number };
}

/** Names of activations in config.json, and the kernels' own. */
const activations = {
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  silu: "silu",
  swish: "silu",
} as const;

export const activationOf = (name: keyof typeof activations) => activations[name];

const decides = {
  max_position_embeddings: count.default(512),
  initializer_range: z.number().min(0).default(0.02),
  tie_word_embeddings: z.boolean().default(true),
  quantization_config: z.unknown().optional(),
};

const bertSchema = (type: "bert" | "roberta") => {
  const [vocabulary, pad, bos, eos] = type === "bert" ? [30522, 0, null, null] : [50265, 1, 0, 2];
  return z.object({
    model_type: z.literal(type),
    vocab_size: count.default(vocabulary),
    hidden_size: count.default(768),
    num_hidden_layers: count.default(12),
    num_attention_heads: count.default(12),
    intermediate_size: count.default(3072),
    hidden_act: z.string().default("gelu"),
    hidden_dropout_prob: rate.default(0.1),
    attention_probs_dropout_prob: rate.default(0.1),
    classifier_dropout: rate.nullable().default(null),
    type_vocab_size: count.default(2),
    layer_norm_eps: z.number().positive().default(1e-12),
    ...decides,
    ...specialTokens(bos, eos),
    pad_token_id: z.int().min(0).default(pad),
    position_embedding_type: z.string().default("absolute"),
    is_decoder: z.boolean().default(false),
    add_cross_attention: z.boolean().default(false),
  });
};
const bertSchemas = { bert: bertSchema("bert"), roberta: bertSchema("roberta") };

const distilSchema = z.object({
  model_type: z.literal("distilbert"),
  vocab_size: count.default(30522),
  dim: count.default(768),
  n_layers: count.default(6),
  n_heads: count.default(12),
  hidden_dim: count.default(3072),
  activation: z.string().default("gelu"),
  dropout: rate.default(0.1),
  attention_dropout: rate.default(0.1),
  seq_classif_dropout: rate.default(0.2),
  qa_dropout: rate.default(0.1),
  ...decides,
  ...specialTokens(null, null),
  pad_token_id: z.int().min(0).default(0),
});

/**
 * Checks the content of a BERT's, RoBERTa's or DistilBERT's config.json and fills in defaults. `source` is what messages call
 * the file. Throws a one-line KilnError for a wrong value, another class, and features that kiln does not compute.
 */
export const parseBertConfig =
  (type: "bert" | "roberta") =>
  (value: unknown, source = "config.json"): BertConfig => {
    const file = parseWith(bertSchemas[type], value, () => source);
    const { position_embedding_type, is_decoder, add_cross_attention, quantization_config, ...kept } = file;
    const refuse = refusal(source);
    if (position_embedding_type !== "absolute")
      throw refuse(`position_embedding_type is "${position_embedding_type}"; kiln computes "absolute" only`);
    if (is_decoder || add_cross_attention) {
      const key = is_decoder ? "is_decoder" : "add_cross_attention";
      throw refuse(`${key} is true; kiln computes ${type} as an encoder only`);
    }
    refuseQuantized(quantization_config, source);
    const config = { ...kept, ...parseLabels(value, className[type], source) };
    if (type === "roberta" && kept.max_position_embeddings <= kept.pad_token_id + 1)
      throw refuse(`max_position_embeddings must be more than pad_token_id + 1 (${kept.pad_token_id + 1})`);
    return checked(config, "hidden_size", "num_attention_heads", "hidden_act", refuse);
  };

/** See `parseBertConfig`. */
export function parseDistilBertConfig(value: unknown, source = "config.json"): DistilBertConfig {
  const file = parseWith(distilSchema, value, () => source);
  const { quantization_config, ...kept } = file;
  const refuse = refusal(source);
  refuseQuantized(quantization_config, source);
  const config = { ...kept, ...parseLabels(value, className.distilbert, source) };
  return checked(config, "dim", "n_heads", "activation", refuse);
}

/** How transformers begins the names of an architecture's classes. */
const className = { bert: "Bert", roberta: "Roberta", distilbert: "DistilBert" } as const;

export const encoderClasses = (type: EncoderConfig["model_type"]) =>
  tasks.map((task) => classFor(className[type], task));

function checked<C extends EncoderConfig>(
  config: C,
  width: keyof C & string,
  heads: keyof C & string,
  activation: keyof C & string,
  refuse: (problem: string) => KilnError,
): C {
  if (Number(config[width]) % Number(config[heads]) !== 0)
    throw refuse(`${width} ${config[width]} is not a multiple of ${heads} ${config[heads]}`);
  if (!Object.hasOwn(activations, config[activation] as string)) {
    const known = Object.keys(activations).join(", ");
    throw refuse(`${activation} is ${JSON.stringify(config[activation])}; kiln computes ${known}`);
  }
  if (!config.tie_word_embeddings && taskOf(config) === "fill-mask")
    throw refuse(
      "tie_word_embeddings is false; kiln computes masked language models with tied embeddings only",
    );
  return config;
}

/** The content of a config.json. */
export function toHfEncoderConfig(config: EncoderConfig): Record<string, unknown> {
  const { use_cache: _, ...common } = hfCommon;
  const own =
    config.model_type === "distilbert"
      ? { sinusoidal_pos_embds: false }
      : { position_embedding_type: "absolute", is_decoder: false, add_cross_attention: false };
  return { ...config, ...own, ...common };
}

/** An encoder's sizes and rates in common words. */
export function encoderShape(config: EncoderConfig): EncoderShape {
  const { vocab_size, initializer_range, pad_token_id } = config;
  const common = { vocab_size, initializer_range, pad_token_id };
  const task = taskOf(config);
  if (config.model_type === "distilbert") {
    const { dim, n_layers, n_heads, hidden_dim, activation, dropout, attention_dropout } = config;
    const { seq_classif_dropout, qa_dropout, max_position_embeddings } = config;
    const head = { "text-classification": seq_classif_dropout, "question-answering": qa_dropout };
    return {
      ...common,
      max_position_embeddings,
      hidden_size: dim,
      num_hidden_layers: n_layers,
      num_attention_heads: n_heads,
      intermediate_size: hidden_dim,
      hidden_act: activation as keyof typeof activations,
      layer_norm_eps: 1e-12,
      type_vocab_size: 0,
      first_position: 0,
      dropout: {
        hidden: dropout,
        attention: attention_dropout,
        head: (head as Partial<Record<Task, number>>)[task] ?? dropout,
      },
    };
  }
  const { hidden_dropout_prob: hidden, attention_probs_dropout_prob: attention, classifier_dropout } = config;
  const first_position = config.model_type === "roberta" ? pad_token_id + 1 : 0;
  return {
    ...common,
    hidden_size: config.hidden_size,
    num_hidden_layers: config.num_hidden_layers,
    num_attention_heads: config.num_attention_heads,
    intermediate_size: config.intermediate_size,
    hidden_act: config.hidden_act as keyof typeof activations,
    layer_norm_eps: config.layer_norm_eps,
    type_vocab_size: config.type_vocab_size,
    max_position_embeddings: config.max_position_embeddings - first_position,
    first_position,
    dropout: {
      hidden,
      attention,
      head: task === "question-answering" ? 0 : (classifier_dropout ?? hidden),
    },
  };
}

/** The settings of training in common words, and the keys of BERT and of DistilBERT that mean the same. */
const keys = {
  bert: { resid_pdrop: "hidden_dropout_prob", attn_pdrop: "attention_probs_dropout_prob" },
  distilbert: {
    hidden_size: "dim",
    num_hidden_layers: "n_layers",
    num_attention_heads: "n_heads",
    intermediate_size: "hidden_dim",
    resid_pdrop: "dropout",
    attn_pdrop: "attention_dropout",
  },
};
const shared = /^(vocab_size|initializer_range|bos_token_id|eos_token_id)$/;
const sizes = /^(hidden_size|num_hidden_layers|num_attention_heads|intermediate_size)$/;

/** Settings in common words as keys of a config.json. Throws a KilnError for a setting that the architecture lacks. */
export const encoderOverrides =
  (type: EncoderConfig["model_type"]) =>
  (settings: Record<string, unknown>): Record<string, unknown> => {
    const own: Record<string, string> = keys[type === "distilbert" ? "distilbert" : "bert"];
    const named = Object.entries(settings).flatMap(([key, value]) => {
      // The same rate as resid_pdrop in these architectures.
      if (key === "embd_pdrop" && value === settings.resid_pdrop) return [];
      if (key === "max_position_embeddings") return [[key, Number(value) + (type === "roberta" ? 2 : 0)]];
      if (own[key] || shared.test(key) || sizes.test(key)) return [[own[key] ?? key, value]];
      throw configError(`a ${className[type]} has no ${key}; leave it out`);
    });
    return Object.fromEntries(named);
  };
