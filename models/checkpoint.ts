import { join } from "node:path";
import { device } from "../core/device.ts";
import { byteSize } from "../core/dtype.ts";
import { KilnError } from "../core/errors.ts";
import type { ComputeDtype, Module } from "../nn/index.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { assertComputeDtype, createDecoder, readDecoderConfig } from "./auto.ts";
import type { CausalLM } from "./causal_lm.ts";
import { atomicWriteDirectory, currentDirectory, writeJson } from "./files.ts";
import { type HostTensor, readModelWeights, toFloat32, writeSafetensors } from "./safetensors.ts";

/** A model as a Hugging Face directory holds it. */
export interface LoadedModel {
  model: CausalLM;
  tokenizer: Tokenizer;
  directory: string;
}

/**
 * Loads `config.json`, `model.safetensors` (or its shards) and the tokenizer of a Hugging Face directory.
 * With dtype f16 matrices are rounded to it, and the model computes in it; it is then for answering only.
 * Errors name the file or the tensor that is missing, corrupt or does not fit.
 */
export async function loadModel(path: string, dtype: ComputeDtype = "f32"): Promise<LoadedModel> {
  assertComputeDtype(dtype, "use --dtype f32");
  const directory = await currentDirectory(path);
  const config = await readDecoderConfig(directory);
  const width = config.model_type === "gpt2" ? config.n_embd : config.hidden_size;
  const largest = config.vocab_size * width * byteSize(dtype);
  if (largest > device().profile.maxBindingBytes) {
    const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    throw new KilnError(
      `${path} is too large for this adapter: its embedding takes ${mib(largest)}, one buffer may have ` +
        `${mib(device().profile.maxBindingBytes)}; use a GPU with larger limits (kiln doctor prints them) or a smaller model`,
      { code: "model_too_large" },
    );
  }
  const tokenizer = Tokenizer.load(directory);
  const model = createDecoder(config, dtype);
  loadWeights(model, await readModelWeights(directory));
  return { model, tokenizer, directory };
}

/**
 * Copies tensors of a checkpoint into a model's parameters; what the model does not have (buffers of old versions) is
 * ignored. Names may lack the model's prefix, as in checkpoints of the model without its head.
 */
export function loadWeights(model: CausalLM, weights: ReadonlyMap<string, HostTensor>): void {
  model.loadParameters((name) => {
    const bare = name.startsWith(model.prefix) ? name.slice(model.prefix.length) : name;
    const found = weights.get(name) ?? weights.get(bare);
    return found && { shape: found.shape, values: () => toFloat32(found) };
  });
}

/** The parameters' values, as float32 in host memory. */
export async function readWeights(model: Module): Promise<Map<string, HostTensor>> {
  const weights = new Map<string, HostTensor>();
  for (const [name, parameter] of model.namedParameters()) {
    const values = Float32Array.from(await parameter.data());
    weights.set(name, { dtype: "F32", shape: [...parameter.shape], bytes: new Uint8Array(values.buffer) });
  }
  return weights;
}

/** Writes a Hugging Face directory that transformers, vLLM and llama.cpp's converter load, all or nothing. */
export async function saveModel(directory: string, model: CausalLM, tokenizer: Tokenizer): Promise<void> {
  await atomicWriteDirectory(directory, (temporary) => writeModelFiles(temporary, model, tokenizer));
}

/** The files of a model directory, into a directory that exists. */
export async function writeModelFiles(
  directory: string,
  model: CausalLM,
  tokenizer: Tokenizer,
): Promise<void> {
  await writeSafetensors(join(directory, "model.safetensors"), await readWeights(model));
  await writeJson(join(directory, "config.json"), model.toHfConfig());
  await writeJson(join(directory, "generation_config.json"), model.toGenerationConfig());
  tokenizer.save(directory);
}
