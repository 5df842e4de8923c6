import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../core/errors.ts";
import { readJson } from "../core/platform/files.ts";
import {
  architectures,
  createModel,
  type DecoderConfig,
  decoderConfig,
  type ModelConfig,
  type ModelType,
  modelTypeOf,
  parseModelConfig,
  presets,
  shapeOf,
} from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import { isGguf } from "../models/formats/gguf.ts";
import { fromPretrained, loadWeights } from "../models/formats/hf_directory.ts";
import { readModelWeights } from "../models/formats/safetensors.ts";
import { configError } from "../models/formats/validation.ts";
import { modelAt, modelInRun } from "../models/hub/resolve.ts";
import type { Model } from "../models/model.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import type { RecipeContext } from "./recipe.ts";
import { checksumFile, damageOf, newestCheckpoint } from "./run_files.ts";
import type { ModelSettings } from "./settings/model.ts";
import type { RunSettings } from "./settings/run.ts";

/** From the `model` settings to a model: a preset, a config file, or a model to start from. */

interface Settings {
  model: ModelSettings;
  train: Pick<RunSettings["train"], "sequence_length">;
}

/** Longest context that the settings allow, in tokens: infinite if a file decides. */
export function positionsOf({ preset, config, init_from, max_position_embeddings }: ModelSettings): number {
  if (config !== undefined || init_from !== undefined) return Number.POSITIVE_INFINITY;
  return max_position_embeddings ?? presets[preset].max_position_embeddings;
}

/** Longest context of a preset, in tokens. */
export function maxPositions({ model, train }: Settings): number {
  const preset = presets[model.preset].max_position_embeddings;
  return model.max_position_embeddings ?? Math.max(preset, train.sequence_length);
}

/**
 * The model directory that `model.init_from` stands for: the path itself or, if it is a run folder, the finished model, else
 * the newest checkpoint. Throws a KilnError if there is none, or if it is damaged.
 */
export async function originOf(path: string): Promise<string> {
  const directory = modelInRun(path) ?? (await newestCheckpoint(path)) ?? (await modelAt(path));
  if (!existsSync(join(directory, "config.json"))) {
    throw new KilnError(
      `model.init_from: ${path} holds no model; name a folder in Hugging Face layout or one of a run`,
      { code: "file_missing" },
    );
  }
  const damage = existsSync(join(directory, checksumFile)) ? await damageOf(directory) : null;
  if (damage)
    throw new KilnError(`model.init_from: ${damage}; name another checkpoint`, {
      code: "checkpoint_corrupt",
    });
  return directory;
}

/** The decoder to train; `origin` is the directory of the model that it starts from. */
export async function decoderSettings(
  config: Settings,
  tokenizer: Tokenizer,
  origin: string | null,
): Promise<DecoderConfig> {
  const { model } = config;
  const special = {
    bos_token_id: tokenizer.bosId,
    eos_token_id: tokenizer.eosId,
    vocab_size: tokenizer.vocabSize,
  };
  if (origin) return originSettings(model, tokenizer, origin);
  if (model.config) {
    const file = (await readJson(model.config)) as object;
    const overrides = shapeSettings(model, modelTypeOf(file, model.config));
    return decoderConfig(parseModelConfig({ ...file, ...overrides, ...special }, model.config), model.config);
  }
  const preset = presets[model.preset];
  const sized = { ...model, max_position_embeddings: maxPositions(config) };
  return preset.config({ ...shapeSettings(sized, preset.model_type), ...special });
}

/** The GGUF file, model directory or newest checkpoint of a run that `path` stands for. See `originOf`. */
export const existingOrigin = async (path: string) => (isGguf(path) ? path : originOf(path));

export type Existing<M> = Omit<Awaited<ReturnType<typeof openExisting>>, "model"> & { model: M };

/** A model folder, run or GGUF file as it is, and the SHA-256 of its weights. */
export async function openExisting(path: string) {
  const loaded = await fromPretrained(await existingOrigin(path));
  assertVocabulary(loaded.tokenizer, shapeOf(loaded.model.config as ModelConfig).vocab_size, path);
  return { ...loaded, hash: await weightsHash(loaded.model) };
}

/** SHA-256 of a model's weights. */
export async function weightsHash(model: Model<never>): Promise<string> {
  const hash = createHash("sha256");
  for (const [name, parameter] of model.namedParameters())
    hash.update(name).update(new Uint8Array((await parameter.data()).slice().buffer));
  return hash.digest("hex");
}

/** The settings that decide the shape, under the names that a config.json of this type has. */
export function shapeSettings(model: Partial<ModelSettings>, type: ModelType): Record<string, unknown> {
  const { preset: _p, config: _c, init_from: _i, dropout, ...others } = model;
  const { attn_pdrop = dropout, resid_pdrop = dropout, embd_pdrop = dropout, ...sizes } = others;
  const settings = Object.entries({ ...sizes, attn_pdrop, resid_pdrop, embd_pdrop });
  return architectures[type].overrides(Object.fromEntries(settings.filter(([, v]) => v !== undefined)));
}

/** Settings that may differ from those of the model that a run starts from: its weights mean the same with them. */
const free = /^(attention_dropout|\w+_pdrop|initializer_range|rope_\w+|max_position_embeddings)$/;

async function originSettings(
  model: ModelSettings,
  tokenizer: Tokenizer,
  origin: string,
): Promise<DecoderConfig> {
  const path = join(origin, "config.json");
  const file = (await readJson(path)) as Record<string, unknown>;
  const has = parseModelConfig(file, path) as ModelConfig & Record<string, unknown>;
  const asked = shapeSettings(model, has.model_type);
  for (const [key, value] of Object.entries(asked)) {
    const own = has[key] ?? (key === "bias" ? true : undefined);
    if (free.test(key) || isDeepStrictEqual(own, value)) continue;
    throw configError(
      `the model settings say ${key} ${value}, but ${origin} has ${own}: weights fit their own shape only; leave it out`,
    );
  }
  if (Tokenizer.load(origin).hash() !== tokenizer.hash()) {
    throw configError(`tokenizer.path is not the tokenizer that ${origin} was trained with; leave it out`);
  }
  assertVocabulary(tokenizer, has.vocab_size, origin);
  return decoderConfig(parseModelConfig({ ...file, ...asked }, path), path);
}

/** Throws a KilnError where the tokenizer of the model in `origin` has ids that its embedding lacks. */
export function assertVocabulary(tokenizer: Tokenizer, vocabSize: number, origin: string): void {
  if (tokenizer.vocabSize <= vocabSize) return;
  throw configError(
    `the tokenizer in ${origin} has ${tokenizer.vocabSize} tokens, its config says vocab_size ${vocabSize}; they belong to different models: put the model's own tokenizer.json there`,
  );
}

/** The model of a config: with the weights in `origin`, or fresh ones made from the seed. Says what is trained. */
export async function openModel(
  config: DecoderConfig,
  train: RunSettings["train"],
  origin: string | null,
  context: Pick<RecipeContext, "say" | "resumeFrom">,
): Promise<CausalLM> {
  const model = createModel(config).computeIn(train.compute_dtype);
  assertLength(model, train.sequence_length);
  await fillModel(model, train, origin, context);
  return model;
}

/** Gives a model the weights in `origin`, without those of its head if that is new, or fresh ones. Says what is trained. */
export async function fillModel(
  model: Model<never>,
  train: RunSettings["train"],
  origin: string | null,
  { say, resumeFrom }: Pick<RecipeContext, "say" | "resumeFrom">,
  hasNewHead = false,
): Promise<void> {
  const { num_hidden_layers, hidden_size } = model.shape;
  const parameters = [...model.trainedParameters().values()].reduce((sum, { size }) => sum + size, 0);
  say(
    `model: ${parameters.toLocaleString("en")} parameters, ${num_hidden_layers} layers of width ${hidden_size}`,
  );
  const rates = Object.entries(model.config).filter(
    ([key, value]) => /(pdrop|dropout|dropout_prob)$/.test(key) && value,
  );
  if (rates.length > 0) say(`dropout in training: ${rates.map((rate) => rate.join(" ")).join(", ")}`);
  if (!origin || resumeFrom || hasNewHead) model.init(train.seed);
  if (!origin || resumeFrom) return;
  loadWeights(model, await readModelWeights(origin), hasNewHead);
  say(`starting from ${origin}${hasNewHead ? ", with a new head" : ""}`);
}

/** Throws a KilnError where rows of so many tokens are longer than a model's context. */
export function assertLength(
  { shape: { max_position_embeddings: longest } }: Model<never>,
  length: number,
): void {
  if (length <= longest) return;
  throw configError(
    `train.sequence_length ${length} is longer than the model's ${longest} positions; lower it`,
  );
}
