import { join } from "node:path";
import { device } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { currentDirectory, readJson } from "../core/platform/files.ts";
import { type ComputeDtype, withMatrices, withoutValues } from "../nn/index.ts";
import { BertEncoder } from "./bert.ts";
import { Blenderbot } from "./blenderbot.ts";
import {
  type BlenderbotConfig,
  blenderbotClass,
  blenderbotOverrides,
  blenderbotShape,
  parseBlenderbotConfig,
} from "./blenderbot_config.ts";
import { DebertaEncoder } from "./deberta.ts";
import type { CausalLM, DecoderShape } from "./decoder.ts";
import type { Encoder } from "./encoder.ts";
import {
  type DebertaConfig,
  type EncoderConfig,
  encoderClasses,
  encoderOverrides,
  encoderShape,
  parseBertConfig,
  parseDebertaConfig,
  parseDistilBertConfig,
} from "./encoder_config.ts";
import type { EncoderDecoder } from "./encoder_decoder.ts";
import { isGguf, readGguf } from "./formats/gguf.ts";
import { ggufConfig } from "./formats/gguf_names.ts";
import { GPT2ForSequenceClassification, GPT2LMHeadModel } from "./gpt2.ts";
import {
  type GPT2ClassifierConfig,
  gpt2Overrides,
  gpt2PresetConfig,
  gpt2Shape,
  parseGpt2ClassifierConfig,
  parseGpt2Config,
} from "./gpt2_config.ts";
import { classFor, type LabelKeys, labelled, type Task, taskOf } from "./labels.ts";
import { LlamaForCausalLM } from "./llama.ts";
import { llamaOverrides, parseLlamaConfig, tinyllmConfig } from "./llama_config.ts";
import type { ModelShape } from "./model.ts";

/** A decoder goes on with a text: it has logits and a cache. An encoder reads whole texts and has a head. The third does both. */
type Kind = "decoder" | "encoder" | "encoder-decoder";
interface OfKind {
  decoder: { model: CausalLM; shape: DecoderShape };
  encoder: { model: Encoder; shape: ModelShape };
  "encoder-decoder": { model: EncoderDecoder; shape: ModelShape };
}

/** An architecture whose checked config.json is a `C`. How to add one: docs/adding-a-model.md. */
interface Architecture<C, K extends Kind> {
  kind: K;
  /** Its classes in transformers, one of which a config.json names under `architectures`; a decoder without a name is the first. */
  classNames: readonly string[];
  /** Checks the content of a config.json; messages call it `source`. Throws a one-line KilnError. */
  parse(value: unknown, source?: string): C;
  shape(config: C): OfKind[K]["shape"];
  create(config: C): OfKind[K]["model"];
  /** The `model_type` of its config.json, where the row has another name. */
  modelType?: string;
  /** Settings of `kiln train`'s `model` section as keys of config.json. Throws a KilnError for one it does not have. */
  overrides(settings: Record<string, unknown>): Record<string, unknown>;
}

const row = <C, K extends Kind>(architecture: Architecture<C, K>) => architecture;

const encoder = <C extends EncoderConfig>(
  type: C["model_type"],
  parse: Architecture<C, "encoder">["parse"],
) =>
  row<C, "encoder">({
    kind: "encoder",
    classNames: encoderClasses(type),
    parse,
    shape: encoderShape,
    create: (config) => new BertEncoder(config),
    overrides: encoderOverrides(type),
  });

const blenderbot = (type: BlenderbotConfig["model_type"]) =>
  row<BlenderbotConfig, "encoder-decoder">({
    kind: "encoder-decoder",
    classNames: [blenderbotClass(type)],
    parse: parseBlenderbotConfig(type),
    shape: blenderbotShape,
    create: (config) => new Blenderbot(config),
    overrides: blenderbotOverrides,
  });

/** Every architecture that kiln can load, by the `model_type` of its config.json; a class of another kind has a row of its own. */
export const architectures = {
  llama: row({
    kind: "decoder",
    classNames: ["LlamaForCausalLM"],
    parse: parseLlamaConfig,
    shape: (config) => config,
    create: (config) => new LlamaForCausalLM(config),
    overrides: llamaOverrides,
  }),
  gpt2: row({
    kind: "decoder",
    classNames: ["GPT2LMHeadModel"],
    parse: parseGpt2Config,
    shape: gpt2Shape,
    create: (config) => new GPT2LMHeadModel(config),
    overrides: gpt2Overrides,
  }),
  gpt2_classifier: row<GPT2ClassifierConfig, "encoder">({
    kind: "encoder",
    classNames: ["GPT2ForSequenceClassification"],
    modelType: "gpt2",
    parse: parseGpt2ClassifierConfig,
    shape: gpt2Shape,
    create: (config) => new GPT2ForSequenceClassification(config),
    overrides: gpt2Overrides,
  }),
  bert: encoder("bert", parseBertConfig("bert")),
  roberta: encoder("roberta", parseBertConfig("roberta")),
  distilbert: encoder("distilbert", parseDistilBertConfig),
  "deberta-v2": row<DebertaConfig, "encoder">({
    ...encoder("deberta-v2", parseDebertaConfig),
    create: (config) => new DebertaEncoder(config),
  }),
  blenderbot: blenderbot("blenderbot"),
  "blenderbot-small": blenderbot("blenderbot-small"),
};

export type ModelType = keyof typeof architectures;
/** The checked config of a model that writes text; `model_type` says which. */
export type DecoderConfig = ReturnType<(typeof architectures)["llama" | "gpt2"]["parse"]>;
/** The checked config of any model. */
export type ModelConfig = ReturnType<(typeof architectures)[ModelType]["parse"]>;

/** The shapes that training can start from by name: how a config is made of keys that differ, and the context by default. */
export const presets = {
  tinyllm: { model_type: "llama", max_position_embeddings: 512, config: tinyllmConfig },
  gpt2: { model_type: "gpt2", max_position_embeddings: 1024, config: gpt2PresetConfig },
} as const;

/** What `createModel` makes of a config. */
export type ModelOf<C> = C extends { architectures: unknown }
  ? Encoder
  : C extends { decoder_start_token_id: unknown }
    ? EncoderDecoder
    : CausalLM;
export type AnyModel = ModelOf<ModelConfig>;

export const isModelType = (type: unknown): type is ModelType =>
  typeof type === "string" &&
  Object.hasOwn(architectures, type) &&
  !architectures[type as ModelType].modelType;

const rowOf = (config: ModelConfig) => architectures[modelTypeOf(config)] as Architecture<ModelConfig, Kind>;

/**
 * The row of a config.json's content: that of its class, else of its `model_type`; without either, Llama's.
 * Throws a one-line KilnError where kiln cannot load it.
 */
export function modelTypeOf(value: unknown, source = "config.json"): ModelType {
  const { model_type: type, architectures: classes } = (value ?? {}) as Record<string, unknown>;
  const types = Object.keys(architectures) as ModelType[];
  const named = types.find((name) => architectures[name].classNames.includes(String(classes)));
  if (named && (type === undefined || named.startsWith(String(type)))) return named;
  const isOld = type === undefined && classes !== undefined;
  const found = isOld ? undefined : (type ?? "llama");
  if (isModelType(found)) return found;
  const given = isOld
    ? `architectures is ${JSON.stringify(classes)} without a model_type`
    : `model_type is ${JSON.stringify(type)}`;
  throw new KilnError(`${source}: ${given}; kiln can load ${types.filter(isModelType).join(", ")}`, {
    code: "model_type_unknown",
  });
}

/**
 * Checks the content of a config.json by its `model_type`. `source` is what messages call it.
 * Throws a one-line KilnError for what is wrong or cannot be loaded.
 */
export function parseModelConfig(value: unknown, source = "config.json"): ModelConfig {
  return architectures[modelTypeOf(value, source)].parse(value, source);
}

/** Reads the config of a model directory or a GGUF file. Throws a one-line KilnError when it is missing or not loadable. */
export async function readModelConfig(directory: string): Promise<ModelConfig> {
  if (isGguf(directory)) return parseModelConfig(ggufConfig(readGguf(directory), directory), directory);
  const path = join(await currentDirectory(directory), "config.json");
  return parseModelConfig(await readJson(path), path);
}

/** The sizes that a config describes, in common words. */
export function shapeOf(config: ModelConfig): ModelShape {
  return rowOf(config).shape(config);
}

/**
 * The model that a config describes, with room for weights but no values yet: load them or call `init`. A model that
 * is not to be trained may keep its matrices in f16 alone (`matrices`).
 */
export function createModel<C extends ModelConfig>(config: C, matrices: ComputeDtype = "f32"): ModelOf<C> {
  return withoutValues(() => withMatrices(matrices, () => rowOf(config).create(config))) as ModelOf<C>;
}

/** Whether a config is that of a model that reads whole texts. */
export const isEncoderConfig = (config: ModelConfig): boolean => rowOf(config).kind === "encoder";

/** The config of a model that writes text. Throws a one-line KilnError for that of another. */
export function decoderConfig(config: ModelConfig, source: string): DecoderConfig {
  const row = rowOf(config);
  if (row.kind === "decoder") return config as DecoderConfig;
  const { architectures: [name] = row.classNames } = config as Partial<EncoderConfig>;
  throw new KilnError(`${source} is a ${name}, which ${writingInstead(config, row.kind)}`, {
    code: "model_not_decoder",
  });
}

/** What a model other than a decoder does with text, and what takes it. */
function writingInstead(config: ModelConfig, kind: Kind): string {
  if (kind === "encoder-decoder")
    return 'answers a text as a whole; use pipeline("text2text-generation") of kiln/models for it, or a decoder such as GPT-2';
  if (taskOf(config as EncoderConfig) === "fill-mask")
    return "reads text and writes none token by token; kiln sample and kiln eval perplexity take it, for all else use a decoder";
  return "reads text and writes none; use a decoder such as Llama or GPT-2";
}

/** The config of the same model with a head for another task. Throws a one-line KilnError where the architecture has none. */
export function headedConfig(
  config: ModelConfig,
  task: Task,
  labels: readonly string[] | undefined,
  problemType: LabelKeys["problem_type"],
  source: string,
): ModelConfig {
  const { model_type: type } = config;
  const classes = Object.values(architectures).flatMap((row) =>
    row.kind === "encoder" ? row.classNames : [],
  );
  const named = classes.find(
    (name) => name.toLowerCase() === classFor(type.replace("-", ""), task).toLowerCase(),
  );
  if (!named)
    throw new KilnError(`${source} is a ${type}, for which kiln has no head for ${task}`, {
      code: "task_unknown",
    });
  const {
    id2label: _i,
    label2id: _l,
    problem_type: _p,
    ...body
  } = config as ModelConfig & Partial<LabelKeys>;
  const head = { ...(labels && labelled(labels)), ...(problemType && { problem_type: problemType }) };
  return parseModelConfig({ ...body, architectures: [named], ...head }, source);
}

/** Throws a one-line error where this adapter cannot compute in `dtype`; `remedy` says what to set instead. */
export function assertComputeDtype(dtype: ComputeDtype, remedy: string): void {
  const { profile } = device();
  if (dtype === "f32" || profile.f16) return;
  throw new KilnError(`${profile.name} cannot compute in f16 (it has no shader-f16): ${remedy}`, {
    code: "no_f16",
  });
}
