import { join } from "node:path";
import { device } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { currentDirectory, readJson } from "../core/platform/files.ts";
import { type ComputeDtype, withMatrices, withoutValues } from "../nn/index.ts";
import type { CausalLM, DecoderShape } from "./decoder.ts";
import { isGguf, readGguf } from "./formats/gguf.ts";
import { ggufConfig } from "./formats/gguf_names.ts";
import { GPT2LMHeadModel } from "./gpt2.ts";
import { gpt2Overrides, gpt2PresetConfig, gpt2Shape, parseGpt2Config } from "./gpt2_config.ts";
import { LlamaForCausalLM } from "./llama.ts";
import { llamaOverrides, parseLlamaConfig, tinyllmConfig } from "./llama_config.ts";

/** An architecture whose checked config.json is a `C`. How to add one: docs/adding-a-model.md. */
interface Architecture<C> {
  /** A decoder writes text: it has logits and a cache. */
  kind: "decoder";
  /** The class in transformers, which a config.json names under `architectures`. */
  className: string;
  /** Checks the content of a config.json; messages call it `source`. Throws a one-line KilnError. */
  parse(value: unknown, source?: string): C;
  shape(config: C): DecoderShape;
  create(config: C): CausalLM;
  /** Settings of `kiln train`'s `model` section as keys of config.json. Throws a KilnError for one it does not have. */
  overrides(settings: Record<string, unknown>): Record<string, unknown>;
}

const row = <C>(architecture: Architecture<C>) => architecture;

/** Every architecture that kiln can load, by the `model_type` of its config.json. */
export const architectures = {
  llama: row({
    kind: "decoder",
    className: "LlamaForCausalLM",
    parse: parseLlamaConfig,
    shape: (config) => config,
    create: (config) => new LlamaForCausalLM(config),
    overrides: llamaOverrides,
  }),
  gpt2: row({
    kind: "decoder",
    className: "GPT2LMHeadModel",
    parse: parseGpt2Config,
    shape: gpt2Shape,
    create: (config) => new GPT2LMHeadModel(config),
    overrides: gpt2Overrides,
  }),
};

export type ModelType = keyof typeof architectures;
/** The checked config of any model; `model_type` says which. */
export type ModelConfig = ReturnType<(typeof architectures)[ModelType]["parse"]>;

/** The shapes that training can start from by name: how a config is made of keys that differ, and the context by default. */
export const presets = {
  tinyllm: { model_type: "llama", max_position_embeddings: 512, config: tinyllmConfig },
  gpt2: { model_type: "gpt2", max_position_embeddings: 1024, config: gpt2PresetConfig },
} as const;

export const isModelType = (type: unknown): type is ModelType =>
  typeof type === "string" && Object.hasOwn(architectures, type);

const rowOf = (config: ModelConfig) => architectures[config.model_type] as Architecture<ModelConfig>;

/**
 * The `model_type` of a config.json's content; without one, that of its class, and Llama where it names none.
 * Throws a one-line KilnError where kiln cannot load it.
 */
export function modelTypeOf(value: unknown, source = "config.json"): ModelType {
  const { model_type: type, architectures: classes } = (value ?? {}) as Record<string, unknown>;
  const types = Object.keys(architectures) as ModelType[];
  const isOld = type === undefined && classes !== undefined;
  const found = isOld
    ? types.find((name) => String(classes).startsWith(architectures[name].className))
    : (type ?? "llama");
  if (isModelType(found)) return found;
  const given = isOld
    ? `architectures is ${JSON.stringify(classes)} without a model_type`
    : `model_type is ${JSON.stringify(type)}`;
  throw new KilnError(`${source}: ${given}; kiln can load ${types.join(", ")}`, {
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
export function shapeOf(config: ModelConfig): DecoderShape {
  return rowOf(config).shape(config);
}

/**
 * The model that a config describes, with room for weights but no values yet: load them or call `init`. A model that
 * is not to be trained may keep its matrices in f16 alone (`matrices`).
 */
export function createModel(config: ModelConfig, matrices: ComputeDtype = "f32"): CausalLM {
  return withoutValues(() => withMatrices(matrices, () => rowOf(config).create(config)));
}

/** Throws a one-line error where this adapter cannot compute in `dtype`; `remedy` says what to set instead. */
export function assertComputeDtype(dtype: ComputeDtype, remedy: string): void {
  const { profile } = device();
  if (dtype === "f32" || profile.f16) return;
  throw new KilnError(`${profile.name} cannot compute in f16 (it has no shader-f16): ${remedy}`, {
    code: "no_f16",
  });
}
