import { type Tensor, zeros } from "../core/tensor.ts";
import { activate, add, narrow, relu, reshape, tanh } from "../kernels/index.ts";
import {
  attendRows,
  type DropoutRates,
  Embedding,
  type Heads,
  LayerNorm,
  Linear,
  Module,
  ontoResidual,
  Parameter,
} from "../nn/index.ts";
import { Encoder, type EncoderInput } from "./encoder.ts";
import {
  activationOf,
  type EncoderConfig,
  type EncoderShape,
  encoderShape,
  type HeadActivation,
  toHfEncoderConfig,
} from "./encoder_config.ts";
import { ClassifierHead, type Head, MaskedLMHead } from "./heads.ts";
import { labelNames } from "./labels.ts";
import type { Block as ModelBlock } from "./model.ts";

/** What checkpoints of one architecture call things, and one thing that it computes in another way. */
export interface Family {
  /** Where a model with a head keeps the encoder. */
  prefix: string;
  layer: string;
  query: string;
  key: string;
  value: string;
  attentionOut: string;
  attentionNorm: string;
  inner: string;
  outer: string;
  outNorm: string;
  /** Whether training drops values of the attention's output. */
  dropsAttentionOut: boolean;
  /** The two layers of a text's classifier. */
  classifier: { dense: string; out: string };
  maskedLM: { dense: string; norm: string; bias: string; decoder: string };
}

const bert: Family = {
  prefix: "bert.",
  layer: "encoder.layer",
  query: "attention.self.query",
  key: "attention.self.key",
  value: "attention.self.value",
  attentionOut: "attention.output.dense",
  attentionNorm: "attention.output.LayerNorm",
  inner: "intermediate.dense",
  outer: "output.dense",
  outNorm: "output.LayerNorm",
  dropsAttentionOut: true,
  classifier: { dense: "bert.pooler.dense", out: "classifier" },
  maskedLM: {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    bias: "cls.predictions.bias",
    decoder: "cls.predictions.decoder",
  },
};

const families: Record<EncoderConfig["model_type"], Family> = {
  bert,
  roberta: {
    ...bert,
    prefix: "roberta.",
    classifier: { dense: "classifier.dense", out: "classifier.out_proj" },
    maskedLM: {
      dense: "lm_head.dense",
      norm: "lm_head.layer_norm",
      bias: "lm_head.bias",
      decoder: "lm_head.decoder",
    },
  },
  "deberta-v2": {
    ...bert,
    prefix: "deberta.",
    query: "attention.self.query_proj",
    key: "attention.self.key_proj",
    value: "attention.self.value_proj",
    classifier: { dense: "pooler.dense", out: "classifier" },
  },
  distilbert: {
    prefix: "distilbert.",
    layer: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attentionOut: "attention.out_lin",
    attentionNorm: "sa_layer_norm",
    inner: "ffn.lin1",
    outer: "ffn.lin2",
    outNorm: "output_layer_norm",
    dropsAttentionOut: false,
    classifier: { dense: "pre_classifier", out: "classifier" },
    maskedLM: {
      dense: "vocab_transform",
      norm: "vocab_layer_norm",
      bias: "vocab_projector.bias",
      decoder: "vocab_projector",
    },
  },
};

/** The masked language model of DeBERTa's authors, which transformers has beside its own first one (`legacy`). */
const debertaMaskedLM = {
  dense: "lm_predictions.lm_head.dense",
  norm: "lm_predictions.lm_head.LayerNorm",
  bias: "lm_predictions.lm_head.bias",
  decoder: "lm_predictions.lm_head",
};

const familyOf = (config: EncoderConfig): Family => {
  const family = families[config.model_type];
  const isLegacy = config.model_type !== "deberta-v2" || config.legacy;
  return isLegacy ? family : { ...family, maskedLM: debertaMaskedLM };
};

const headActivations = { tanh, relu };
/** The activation of a head or a convolution. */
export const activation =
  (name: HeadActivation) =>
  (x: Tensor): Tensor =>
    name === "tanh" || name === "relu" ? headActivations[name](x) : activate(x, activationOf(name));

/** Puts a part where a checkpoint has it: with the path `a.b.c` it is the field c of the module b in the module a of `root`. */
export function place<T extends Module | Parameter>(root: Module, path: string, part: T): T {
  const names = path.split(".");
  const last = names.pop()!;
  const inside = names.reduce<Module>((node, name) => {
    const fields = node as unknown as Record<string, Module>;
    fields[name] ??= new Module();
    return fields[name];
  }, root);
  Object.assign(inside, { [last]: part });
  return part;
}

/** One block: x = norm(x + attention(x)), then norm(x + mlp(x)). */
export class Block implements ModelBlock<EncoderInput> {
  /** Of query, key and value. */
  protected readonly projections: readonly [Linear, Linear, Linear];
  readonly #family: Family;
  readonly #shape: EncoderShape;
  readonly #attentionOut: Linear;
  readonly #attentionNorm: LayerNorm;
  readonly #inner: Linear;
  readonly #outer: Linear;
  readonly #outNorm: LayerNorm;

  /** Its layers become parts of `root` below `path`. */
  constructor(root: Module, path: string, family: Family, shape: EncoderShape) {
    const { hidden_size: width, intermediate_size: innerWidth, layer_norm_eps: eps } = shape;
    const at = <T extends Module>(name: string, part: T) => place(root, `${path}.${name}`, part);
    this.#family = family;
    this.#shape = shape;
    const { query, key, value } = family;
    this.projections = [query, key, value].map((name) => at(name, new Linear(width, width))) as never;
    this.#attentionOut = at(family.attentionOut, new Linear(width, width));
    this.#attentionNorm = at(family.attentionNorm, new LayerNorm(width, eps));
    this.#inner = at(family.inner, new Linear(width, innerWidth));
    this.#outer = at(family.outer, new Linear(innerWidth, width));
    this.#outNorm = at(family.outNorm, new LayerNorm(width, eps));
  }

  /** What each token takes from those of its text: [B, T, heads, head_dim] each to [B, T, width]. */
  protected attend(heads: Heads, input: EncoderInput): Tensor {
    return attendRows(heads, { ...input, causal: false });
  }

  /** [..., width] to [..., heads, head_dim]. */
  protected split(x: Tensor): Tensor {
    const { num_attention_heads: count, hidden_size: width } = this.#shape;
    return reshape(x, [...x.shape.slice(0, -1), count, width / count]);
  }

  /** [B, T, width] to the same shape. */
  forward(x: Tensor, input: EncoderInput): Tensor {
    const { batchInvariant = false, dropout } = input;
    const { hidden_act } = this.#shape;
    const run = { batchInvariant, dropout };
    const heads = this.projections.map((layer) => this.split(layer.forward(x, run))) as Heads;
    const attended = this.attend(heads, input); // [B, T, width]
    const out = this.#attentionOut;
    const added = this.#family.dropsAttentionOut
      ? ontoResidual(out, attended, x, run)
      : out.forward(attended, { ...run, residual: x });
    const mixed = this.#attentionNorm.forward(added);
    const inner = this.#inner.forward(mixed, { ...run, activation: activationOf(hidden_act) });
    return this.#outNorm.forward(ontoResidual(this.#outer, inner, mixed, run));
  }
}

/**
 * BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019) with the head that the config names:
 * learned positions, layer norm after each part, erf gelu. Parameter names and numerics are those of transformers, so its
 * checkpoints load as they are; a model without a head is loaded without its pooler.
 */
export class BertEncoder extends Encoder {
  readonly config: EncoderConfig;
  readonly shape: EncoderShape;
  readonly decidingToken = "first";
  readonly checkpointNames;
  readonly #words: Embedding;
  readonly #positions: Embedding | null;
  readonly #types: Embedding | null;
  readonly #widen: Linear | null;
  readonly #norm: LayerNorm;
  readonly #blocks: readonly Block[];
  readonly #head: Head | null;

  constructor(config: EncoderConfig) {
    super();
    this.config = config;
    this.shape = encoderShape(config);
    const family = familyOf(config);
    const prefix = this.task === "feature-extraction" ? "" : family.prefix;
    this.checkpointNames = namesOf(family, prefix, this.task === "fill-mask");
    const { hidden_size: width, embedding_size, vocab_size, type_vocab_size, position_rows } = this.shape;
    const at = <T extends Module>(name: string, part: T) => place(this, `${prefix}embeddings.${name}`, part);
    const table = (name: string, rows: number) =>
      rows === 0 ? null : at(`${name}_embeddings`, new Embedding(rows, embedding_size));
    this.#words = table("word", vocab_size)!;
    this.#positions = table("position", position_rows);
    this.#types = table("token_type", type_vocab_size);
    this.#widen =
      embedding_size === width ? null : at("embed_proj", new Linear(embedding_size, width, { bias: false }));
    this.#norm = at("LayerNorm", new LayerNorm(width, this.shape.layer_norm_eps));
    this.#blocks = Array.from({ length: this.shape.num_hidden_layers }, (_, i) =>
      this.block(`${prefix}${family.layer}`, i, family),
    );
    this.#head = this.#newHead(family);
  }

  /** Makes block `i` of those below `path`. */
  protected block(path: string, i: number, family: Family): Block {
    return new Block(this, `${path}.${i}`, family, this.shape);
  }

  #newHead({ classifier, maskedLM }: Family): Head | null {
    const { hidden_size: width, hidden_act, layer_norm_eps: eps, embedding_size } = this.shape;
    const at = <T extends Module | Parameter>(path: string, part: T) => place(this, path, part);
    const labels = labelNames(this.config).length;
    switch (this.task) {
      case "text-classification": {
        const dense = at(classifier.dense, new Linear(width, width));
        const before = { dense, activation: activation(this.shape.pooler_act) };
        return new ClassifierHead(at(classifier.out, new Linear(width, labels)), before);
      }
      case "token-classification":
        return new ClassifierHead(at("classifier", new Linear(width, labels)));
      case "question-answering":
        return new ClassifierHead(at("qa_outputs", new Linear(width, 2)));
      case "fill-mask": {
        const dense = at(maskedLM.dense, new Linear(width, embedding_size));
        const norm = at(maskedLM.norm, new LayerNorm(embedding_size, eps));
        const bias = at(maskedLM.bias, Parameter.make([this.shape.vocab_size], zeros));
        return new MaskedLMHead(
          { dense, norm, bias, embedding: this.#words.weight },
          activationOf(hidden_act),
        );
      }
      default:
        return null;
    }
  }

  protected get head(): Head | null {
    return this.#head;
  }

  get dropoutRates(): DropoutRates {
    const { hidden, ...rates } = this.shape.dropout;
    return { ...rates, residual: hidden, embedding: hidden };
  }

  /** RoBERTa counts tokens that are not padding; padding has a position of its own, in front of them. */
  override positionsOf(ids: ArrayLike<number>): number[] {
    const { first_position, pad_token_id } = this.shape;
    if (first_position === 0) return super.positionsOf(ids);
    let n = 0;
    return Array.from(ids, (id) => (id === pad_token_id ? -1 : n++));
  }

  /** What the first block reads, [B, T, width]. */
  protected embed(input: EncoderInput): Tensor {
    const { tokens, tokenTypes, positions, batchInvariant = false, dropout } = input;
    const { first_position } = this.shape;
    let sum = this.#words.forward(tokens); // [B, T, embedding_size]
    if (this.#positions) {
      const places = first_position === 0 ? positions : add(positions, first_position);
      sum = add(sum, this.#positions.forward(places));
    }
    if (this.#types) {
      const types = this.#types;
      sum = add(sum, tokenTypes ? types.forward(tokenTypes) : narrow(types.weight.compute, 0, 0, 1));
    }
    return this.#norm.forward(this.#widen?.forward(sum, { batchInvariant, dropout }) ?? sum);
  }

  hidden(input: EncoderInput, each?: (x: Tensor) => void): Tensor {
    const out = this.throughBlocks(this.#blocks, this.embed(input), input, each);
    each?.(out);
    return out;
  }

  toHfConfig(): Record<string, unknown> {
    return toHfEncoderConfig(this.config);
  }
}

/** Heads that a checkpoint may hold besides the one that its model has, and what it does not read or old versions saved. */
const otherParts =
  /(^|\.)(position_ids|token_type_ids|position_embeddings\.weight)$|(^|\.)pooler\.|^(cls|lm_head|vocab_\w+|\w+_predictions|pre_classifier|classifier|qa_outputs)\./;

function namesOf({ prefix: headed, maskedLM }: Family, prefix: string, isMaskedLM: boolean) {
  const { decoder, bias } = maskedLM;
  const tied: Record<string, string> = {
    [`${decoder}.weight`]: `${prefix}embeddings.word_embeddings.weight`,
    ...(bias === `${decoder}.bias` ? {} : { [`${decoder}.bias`]: bias }),
  };
  return {
    prefix,
    buffers: otherParts,
    tied: isMaskedLM ? tied : {},
    /** Google's checkpoints name a norm's parameters gamma and beta; those with a head have a prefix. */
    current(name: string): string {
      const own = prefix === "" && name.startsWith(headed) ? name.slice(headed.length) : name;
      return own.replace(/\.gamma$/, ".weight").replace(/\.beta$/, ".bias");
    },
  };
}
