import { join } from "node:path";
import { device } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { currentDirectory, readJson } from "../core/platform/files.ts";
import { type ComputeDtype, withMatrices, withoutValues } from "../nn/index.ts";
import type { CausalLM } from "./causal_lm.ts";
import { type LlamaConfig, parseLlamaConfig } from "./config.ts";
import { GPT2LMHeadModel } from "./gpt2.ts";
import { type GPT2Config, parseGpt2Config } from "./gpt2_config.ts";
import { LlamaForCausalLM } from "./llama.ts";

/** The checked config of any decoder; `model_type` says which. */
export type DecoderConfig = LlamaConfig | GPT2Config;

/**
 * Checks the content of a config.json by its `model_type` (Llama where there is none). `source` is what messages call it.
 * Throws a one-line KilnError for what is wrong or cannot be loaded.
 */
export function parseDecoderConfig(value: unknown, source = "config.json"): DecoderConfig {
  const type = (value as { model_type?: unknown } | null)?.model_type;
  return type === "gpt2" ? parseGpt2Config(value, source) : parseLlamaConfig(value, source);
}

/** Reads `config.json` of a model directory. Throws a one-line KilnError when it is missing or not loadable. */
export async function readDecoderConfig(directory: string): Promise<DecoderConfig> {
  const path = join(await currentDirectory(directory), "config.json");
  return parseDecoderConfig(await readJson(path), path);
}

/** How many positions the model of a config has: the longest text that it can read and write. */
export function contextOf(config: DecoderConfig): number {
  return config.model_type === "gpt2" ? config.n_positions : config.max_position_embeddings;
}

/**
 * The decoder that a config describes, with room for weights but no values yet: load them or call `init`. A model that
 * is not to be trained may keep its matrices in f16 alone (`matrices`).
 */
export function createDecoder(config: DecoderConfig, matrices: ComputeDtype = "f32"): CausalLM {
  return withoutValues(() =>
    withMatrices(matrices, () =>
      config.model_type === "gpt2" ? new GPT2LMHeadModel(config) : new LlamaForCausalLM(config),
    ),
  );
}

/** Throws a one-line error where this adapter cannot compute in `dtype`; `remedy` says what to set instead. */
export function assertComputeDtype(dtype: ComputeDtype, remedy: string): void {
  const { profile } = device();
  if (dtype === "f32" || profile.f16) return;
  throw new KilnError(`${profile.name} cannot compute in f16 (it has no shader-f16): ${remedy}`, {
    code: "no_f16",
  });
}
