import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../core/errors.ts";
import { readJson } from "../core/platform/files.ts";
import {
  architectures,
  type ModelConfig,
  type ModelType,
  modelTypeOf,
  parseModelConfig,
  presets,
} from "../models/architectures.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import { checksumFile, damageOf, newestCheckpoint } from "./run_files.ts";

/** What the `model.*` settings come to: a preset, a config file, or a model to start from. */

/** Longest context of a preset, in tokens. */
export function maxPositions({ model, train }: PretrainConfig): number {
  return (
    model.max_position_embeddings ??
    Math.max(presets[model.preset].max_position_embeddings, train.sequence_length)
  );
}

/**
 * The model directory that `model.init_from` names: itself, or of a run folder the finished model, else the newest
 * checkpoint. Throws a KilnError where there is none, or a damaged one.
 */
export async function originOf(path: string): Promise<string> {
  const finished = join(path, "model");
  const inRun = existsSync(join(finished, "config.json")) ? finished : await newestCheckpoint(path);
  const directory = inRun ?? path;
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
  config: PretrainConfig,
  tokenizer: Tokenizer,
  origin: string | null,
): Promise<ModelConfig> {
  const { model } = config;
  const special = {
    bos_token_id: tokenizer.bosId,
    eos_token_id: tokenizer.eosId,
    vocab_size: tokenizer.vocabSize,
  };
  if (origin) return originSettings(config, tokenizer, origin);
  if (model.config) {
    const file = (await readJson(model.config)) as object;
    const overrides = shapeSettings(model, modelTypeOf(file, model.config));
    return parseModelConfig({ ...file, ...overrides, ...special }, model.config);
  }
  const preset = presets[model.preset];
  const sized = { ...model, max_position_embeddings: maxPositions(config) };
  return preset.config({ ...shapeSettings(sized, preset.model_type), ...special });
}

/** The settings that decide the shape, under the names that a config.json of this type has. */
function shapeSettings(model: PretrainConfig["model"], type: ModelType): Record<string, unknown> {
  const { preset: _p, config: _c, init_from: _i, dropout, ...others } = model;
  const { attn_pdrop = dropout, resid_pdrop = dropout, embd_pdrop = dropout, ...sizes } = others;
  const settings = Object.entries({ ...sizes, attn_pdrop, resid_pdrop, embd_pdrop });
  return architectures[type].overrides(Object.fromEntries(settings.filter(([, v]) => v !== undefined)));
}

/** What may differ from the model that a run starts from: trained weights mean the same with it. */
const free = /^(attention_dropout|\w+_pdrop|initializer_range|rope_\w+|max_position_embeddings)$/;

async function originSettings(
  { model }: PretrainConfig,
  tokenizer: Tokenizer,
  origin: string,
): Promise<ModelConfig> {
  const path = join(origin, "config.json");
  const file = (await readJson(path)) as Record<string, unknown>;
  const has = parseModelConfig(file, path) as ModelConfig & Record<string, unknown>;
  const asked = shapeSettings(model, has.model_type);
  for (const [key, value] of Object.entries(asked)) {
    const own = has[key] ?? (key === "bias" ? true : undefined);
    if (free.test(key) || isDeepStrictEqual(own, value)) continue;
    throw new KilnError(
      `the model settings say ${key} ${value}, but ${origin} has ${own}: weights fit their own shape only; leave it out`,
      { code: "config_invalid" },
    );
  }
  if (Tokenizer.load(origin).hash() !== tokenizer.hash()) {
    throw new KilnError(`tokenizer.path is not the tokenizer that ${origin} was trained with; leave it out`, {
      code: "config_invalid",
    });
  }
  if (tokenizer.vocabSize > has.vocab_size) {
    throw new KilnError(
      `the tokenizer in ${origin} has ${tokenizer.vocabSize} tokens, its config.json says vocab_size ${has.vocab_size}; they belong to different models`,
      { code: "config_invalid" },
    );
  }
  return parseModelConfig({ ...file, ...asked }, path);
}
