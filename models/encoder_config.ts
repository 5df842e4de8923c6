import { z } from "zod";
import type { KilnError } from "../core/errors.ts";
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

/** DeBERTa-v2 and -v3: BERT's keys, and those of attention that knows how far tokens are apart. */
export interface DebertaConfig extends Omit<BertConfig, "model_type" | "classifier_dropout"> {
  model_type: "deberta-v2";
  /** Width of the embeddings' tables; a matrix makes hidden_size of it. */
  embedding_size: number;
  /** Whether words have learned positions too. */
  position_biased_input: boolean;
  relative_attention: boolean;
  /** Distances that are told apart (below 1: max_position_embeddings), in so many logarithmic buckets each way (below 1: none). */
  max_relative_positions: number;
  position_buckets: number;
  /** What is added to scores: of the query and the key's place (c2p), of the query's place and the key (p2c). */
  pos_att_type: ("c2p" | "p2c")[];
  /** Whether places go through the matrices of words. */
  share_att_key: boolean;
  norm_rel_ebd: "none" | "layer_norm";
  /** Taps of a convolution beside the first block; 0: none. */
  conv_kernel_size: number;
  conv_groups: number;
  conv_act: HeadActivation;
  pooler_dropout: number;
  pooler_hidden_act: HeadActivation;
  /** Dropout before a text's classifier; null: hidden_dropout_prob. */
  cls_dropout: number | null;
  /** Whether the masked language model is the one of the first transformers, with BERT's names. */
  legacy: boolean;
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

export type EncoderConfig = BertConfig | DebertaConfig | DistilBertConfig;

/** What an encoder computes with, in common words. */
export interface EncoderShape extends ModelShape {
  num_attention_heads: number;
  intermediate_size: number;
  hidden_act: Activation;
  layer_norm_eps: number;
  /** Width of the embeddings' tables. */
  embedding_size: number;
  /** Rows of the tables of token types and of positions; 0 where there is none. */
  type_vocab_size: number;
  position_rows: number;
  /** The row of the table of positions that belongs to a text's first token. */
  first_position: number;
  pad_token_id: number;
  /** Between the two layers of a text's classifier. */
  pooler_act: HeadActivation;
  dropout: { hidden: number; attention: number; pooler: number; head: number };
}

/** Names of activations in config.json, and the kernels' own. */
export const activations = {
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  silu: "silu",
  swish: "silu",
} as const;

export type Activation = keyof typeof activations;
export const activationOf = (name: Activation) => activations[name];

/** Outside of blocks there are these too. */
const headActivations = [
  ...(Object.keys(activations) as (keyof typeof activations)[]),
  "tanh",
  "relu",
] as const;
export type HeadActivation = (typeof headActivations)[number];

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
    num_hidden_layers: layers.default(12),
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

const headActivation = z.enum(headActivations);
const debertaSchema = bertSchemas.bert
  .omit({
    classifier_dropout: true,
    position_embedding_type: true,
    is_decoder: true,
    add_cross_attention: true,
  })
  .extend({
    model_type: z.literal("deberta-v2"),
    vocab_size: count.default(128100),
    hidden_size: count.default(1536),
    num_hidden_layers: layers.default(24),
    num_attention_heads: count.default(24),
    intermediate_size: count.default(6144),
    type_vocab_size: z.int().min(0).max(mostOfAnAxis).default(0),
    layer_norm_eps: z.number().positive().default(1e-7),
    embedding_size: count.optional(),
    attention_head_size: count.optional(),
    position_biased_input: z.boolean().default(true),
    relative_attention: z.boolean().default(false),
    max_relative_positions: z.int().max(mostOfAnAxis).default(-1),
    position_buckets: z.int().max(mostOfAnAxis).default(-1),
    pos_att_type: z
      .preprocess(
        (names) => (typeof names === "string" ? names.split("|").map((name) => name.trim()) : (names ?? [])),
        z.array(z.enum(["c2p", "p2c"])),
      )
      .default([]),
    share_att_key: z.boolean().default(false),
    norm_rel_ebd: z.enum(["none", "layer_norm"]).default("none"),
    conv_kernel_size: z.int().min(0).max(mostOfAnAxis).default(0),
    conv_groups: count.default(1),
    conv_act: headActivation.default("tanh"),
    pooler_dropout: rate.default(0),
    pooler_hidden_act: headActivation.default("gelu"),
    pooler_hidden_size: count.optional(),
    cls_dropout: rate.nullable().default(null),
    legacy: z.boolean().default(true),
  });

const distilSchema = z.object({
  model_type: z.literal("distilbert"),
  vocab_size: count.default(30522),
  dim: count.default(768),
  n_layers: layers.default(6),
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
export function parseDebertaConfig(value: unknown, source = "config.json"): DebertaConfig {
  const file = parseWith(debertaSchema, value, () => source);
  const { attention_head_size, pooler_hidden_size, quantization_config, ...kept } = file;
  const { hidden_size, num_attention_heads, position_buckets, conv_kernel_size, conv_groups } = kept;
  const refuse = refusal(source);
  refuseQuantized(quantization_config, source);
  const only = (key: string, given: number | undefined, computed: number) => {
    if (given !== undefined && given !== computed)
      throw refuse(`${key} is ${given}; kiln computes ${computed} only with hidden_size ${hidden_size}`);
  };
  only("attention_head_size", attention_head_size, hidden_size / num_attention_heads);
  only("pooler_hidden_size", pooler_hidden_size, hidden_size);
  if (position_buckets > 0 && position_buckets < 4)
    throw refuse(`position_buckets is ${position_buckets}; kiln computes 4 or more, or -1 for none`);
  if (conv_kernel_size > 0 && (conv_kernel_size % 2 === 0 || hidden_size % conv_groups !== 0))
    throw refuse(
      `conv_kernel_size ${conv_kernel_size} must be odd, conv_groups ${conv_groups} divide hidden_size`,
    );
  const labels = parseLabels(value, className["deberta-v2"], source);
  const config = { ...kept, embedding_size: kept.embedding_size ?? hidden_size, ...labels };
  if (taskOf(config) === "fill-mask" && !config.legacy)
    only("embedding_size", config.embedding_size, hidden_size);
  return checked(config, "hidden_size", "num_attention_heads", "hidden_act", refuse);
}

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
const className = {
  bert: "Bert",
  roberta: "Roberta",
  "deberta-v2": "DebertaV2",
  distilbert: "DistilBert",
} as const;

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
  const bert = { position_embedding_type: "absolute", is_decoder: false, add_cross_attention: false };
  const own = { distilbert: { sinusoidal_pos_embds: false }, "deberta-v2": {}, bert, roberta: bert };
  return { ...config, ...own[config.model_type], ...common };
}

/** What DeBERTa has settings for, and BERT and RoBERTa as one. */
function partsOf(config: BertConfig | DebertaConfig, task: Task) {
  const { hidden_size, max_position_embeddings, hidden_dropout_prob } = config;
  if (config.model_type === "deberta-v2")
    return {
      embedding_size: config.embedding_size,
      position_rows: config.position_biased_input ? max_position_embeddings : 0,
      pooler_act: config.pooler_hidden_act,
      pooler: config.pooler_dropout,
      head: (task === "text-classification" ? config.cls_dropout : null) ?? hidden_dropout_prob,
    };
  const head = config.classifier_dropout ?? hidden_dropout_prob;
  return {
    embedding_size: hidden_size,
    position_rows: max_position_embeddings,
    pooler_act: "tanh" as const,
    pooler: config.model_type === "roberta" ? head : 0,
    head,
  };
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
      hidden_act: activation as Activation,
      layer_norm_eps: 1e-12,
      embedding_size: dim,
      type_vocab_size: 0,
      position_rows: max_position_embeddings,
      first_position: 0,
      pooler_act: "relu",
      dropout: {
        hidden: dropout,
        attention: attention_dropout,
        pooler: 0,
        head: (head as Partial<Record<Task, number>>)[task] ?? dropout,
      },
    };
  }
  const { hidden_size, hidden_dropout_prob: hidden, attention_probs_dropout_prob: attention } = config;
  const { max_position_embeddings: positions } = config;
  const { pooler, head, ...others } = partsOf(config, task);
  const first_position = config.model_type === "roberta" ? pad_token_id + 1 : 0;
  return {
    ...common,
    ...others,
    hidden_size,
    num_hidden_layers: config.num_hidden_layers,
    num_attention_heads: config.num_attention_heads,
    intermediate_size: config.intermediate_size,
    hidden_act: config.hidden_act as Activation,
    layer_norm_eps: config.layer_norm_eps,
    type_vocab_size: config.type_vocab_size,
    max_position_embeddings: positions - first_position,
    first_position,
    dropout: {
      hidden,
      attention,
      pooler,
      head: task === "question-answering" ? 0 : head,
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
