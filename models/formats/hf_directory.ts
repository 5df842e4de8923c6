import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { device } from "../../core/device.ts";
import { byteSize } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { currentDirectory, readJson } from "../../core/platform/files.ts";
import { Buffer, type ComputeDtype } from "../../nn/index.ts";
import { Tokenizer, tokenizerFromGguf } from "../../tokenizer/index.ts";
import {
  type AnyModel,
  assertComputeDtype,
  createModel,
  type DecoderConfig,
  decoderConfig,
  headedConfig,
  type ModelConfig,
  type ModelOf,
  readModelConfig,
  shapeOf,
} from "../architectures.ts";
import { generateOptions } from "../beam_search.ts";
import type { CausalLM } from "../decoder.ts";
import { EncoderDecoder } from "../encoder_decoder.ts";
import { resolveModel } from "../hub/resolve.ts";
import type { LabelKeys, Task } from "../labels.ts";
import type { Model } from "../model.ts";
import { isGguf, readGguf } from "./gguf.ts";
import { ggufContent } from "./gguf_model.ts";
import { type HostDtype, type HostTensor, toFloat32, withModelWeights } from "./safetensors.ts";
import { quoted } from "./safetensors_header.ts";
import { configError } from "./validation.ts";

export { readTensors, saveModel, writeModelFiles } from "./save_directory.ts";

/** A model as a Hugging Face directory or a GGUF file holds it. */
export interface LoadedModel<M = CausalLM> {
  model: M;
  tokenizer: Tokenizer;
  /** The directory or file. */
  directory: string;
}

/** A new head for a model that has another, or none. */
export interface NewHead {
  task: Task;
  /** Names of the labels, in the order of their numbers. */
  labels?: readonly string[];
  problemType?: LabelKeys["problem_type"];
  /** Of its first weights. */
  seed: number;
}

export interface LoadOptions {
  /**
   * f16: matrices are rounded to f16 and the model computes in it: it can then answer, but not be trained. f32 by default.
   */
  dtype?: ComputeDtype;
  /** For training on another task, or on other labels. A head that the model has for this task and these labels stays. */
  head?: NewHead | undefined;
}

/**
 * Loads `config.json`, `model.safetensors` (or its shards) and the tokenizer of a Hugging Face directory, or a GGUF file, also by
 * a name that `resolveModel` knows: any model that kiln has, with the head that the config's class names. Errors name the file or the tensor that is missing,
 * corrupt or does not fit.
 */
export async function fromPretrained(
  path: string,
  options: LoadOptions = {},
): Promise<LoadedModel<AnyModel>> {
  const directory = await directoryOf(path);
  const { head } = options;
  const own = await readModelConfig(directory);
  const config = head ? headedConfig(own, head.task, head.labels, head.problemType, path) : own;
  const isNew = head !== undefined && !isDeepStrictEqual(config, own);
  return open(path, directory, config, options.dtype ?? "f32", isNew ? head.seed : null);
}

/** `fromPretrained` for a model that writes text. */
export async function loadModel(path: string, dtype: ComputeDtype = "f32"): Promise<LoadedModel> {
  const directory = await directoryOf(path);
  const config = decoderConfig(await readModelConfig(directory), path);
  assertStopTokens(config, path);
  return open(path, directory, config, dtype, null);
}

async function directoryOf(given: string): Promise<string> {
  const path = await resolveModel(given);
  return isGguf(path) ? path : currentDirectory(path);
}

/** With a seed the head's weights are not read, but drawn. */
async function open<C extends ModelConfig>(
  path: string,
  directory: string,
  config: C,
  dtype: ComputeDtype,
  headSeed: number | null,
): Promise<LoadedModel<ModelOf<C>>> {
  assertComputeDtype(dtype, "use --dtype f32");
  const { vocab_size, hidden_size, num_hidden_layers } = shapeOf(config);
  const largest = vocab_size * hidden_size * byteSize(dtype);
  if (largest > device().profile.maxBindingBytes) {
    const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    throw new KilnError(
      `${path} is too large for this adapter: its embedding takes ${mib(largest)}, one buffer may have ` +
        `${mib(device().profile.maxBindingBytes)}; use a GPU with larger limits (kiln doctor prints them) or a smaller model`,
      { code: "model_too_large" },
    );
  }
  const make = (weights: ReadonlyMap<string, HostTensor>) => {
    try {
      if (num_hidden_layers > weights.size)
        throw misfit(
          `has ${weights.size} tensors, config.json ${num_hidden_layers} layers; correct config.json`,
        );
      const model = createModel(config, dtype);
      if (headSeed !== null) model.init(headSeed);
      loadWeights(model as AnyModel, weights, headSeed !== null);
      return model;
    } catch (error) {
      const { message, code } = error as KilnError;
      throw error instanceof KilnError ? new KilnError(`${path}: ${message}`, { code, cause: error }) : error;
    }
  };
  if (isGguf(directory)) {
    const { tokenizer, weights } = ggufContent(readGguf(directory), config, directory);
    return { model: make(weights), tokenizer, directory };
  }
  const tokenizer = Tokenizer.load(directory);
  const model = await withModelWeights(directory, make);
  if (model instanceof EncoderDecoder) model.generation = await readGeneration(directory);
  return { model, tokenizer, directory };
}

/** generation_config.json of a model that answers; without one config.json says it, as in checkpoints of before 2023. */
async function readGeneration(directory: string): Promise<Record<string, unknown>> {
  const own = join(directory, "generation_config.json");
  if (existsSync(own)) return (await readJson(own)) as Record<string, unknown>;
  const file = Object.entries((await readJson(join(directory, "config.json"))) as object);
  return Object.fromEntries(file.filter(([key]) => generateOptions.includes(key)));
}

/** The tokenizer of a Hugging Face directory or a GGUF file. */
export async function readTokenizer(path: string): Promise<Tokenizer> {
  if (isGguf(path)) return tokenizerFromGguf(readGguf(path).metadata, path);
  return Tokenizer.load(await currentDirectory(path));
}

/** A stop token outside the vocabulary is never generated: answers would end only at the end of the context. */
function assertStopTokens({ eos_token_id, vocab_size }: DecoderConfig, path: string): void {
  const wrong = [eos_token_id].flat().find((id) => id !== null && id >= vocab_size);
  if (wrong === undefined) return;
  throw configError(
    `${path}: its config has eos_token_id ${wrong}, but the vocabulary has ${vocab_size} tokens; ` +
      "give the id of the token that ends a text, or null",
  );
}

const FLOATS: readonly HostDtype[] = ["F16", "BF16", "F32", "F64"];

/**
 * Copies tensors of a checkpoint into a model's parameters. Names may lack the model's prefix, as in checkpoints of the
 * model without its head. Nothing is guessed: throws a one-line KilnError for a tensor that is missing, has another shape,
 * holds no floating-point numbers or one that is not finite (f16: too large for it), and for one that the model has no place
 * for: a config with fewer layers or without biases would otherwise load half a model. With `keepsHead` the tensors outside
 * the model's body stay as they are.
 */
export function loadWeights(
  model: Model<never>,
  checkpoint: ReadonlyMap<string, HostTensor>,
  keepsHead = false,
): void {
  const own = model.stateDict();
  const { prefix, buffers, tied, current = (name: string) => name } = model.checkpointNames;
  const weights = new Map([...checkpoint].map(([name, tensor]) => [current(name), tensor]));
  const fileName = (name: string) =>
    !weights.has(name) && name.startsWith(prefix) ? name.slice(prefix.length) : name;
  const used = new Set([...own.keys()].map(fileName));
  for (const [name, tensor] of weights) {
    if (used.has(name)) continue;
    const twin = Object.hasOwn(tied, name) ? fileName(tied[name]) : "";
    const original = weights.get(twin);
    if (original && used.has(twin)) assertTied(name, tensor, twin, original);
    else if (!buffers.test(name))
      throw misfit(
        `has ${quoted(name)}, for which the model of config.json has no place; correct config.json`,
      );
  }
  model.loadParameters((name) => {
    if (keepsHead && (!name.startsWith(prefix) || name.startsWith(`${prefix}pooler.`))) return null;
    const found = weights.get(fileName(name));
    const target = own.get(name)!;
    // As in transformers, a buffer that the checkpoint lacks keeps its first values.
    if (!found && target instanceof Buffer) return null;
    const f16 = target.dtype === "f16";
    return found && { shape: found.shape, values: () => checkedValues(fileName(name), found, f16) };
  });
}

function misfit(problem: string): KilnError {
  return new KilnError(`the checkpoint ${problem}`, { code: "checkpoint_misfit" });
}

/** A tied model has one matrix for embedding and head; a checkpoint may hold it twice. */
function assertTied(name: string, tensor: HostTensor, twin: string, original: HostTensor): void {
  // A copy: both may be read into the same memory.
  const [a, b] = [toFloat32(tensor).slice(), toFloat32(original)];
  if (a.length === b.length && a.every((value, i) => value === b[i])) return;
  throw misfit(
    `has a ${name} that differs from ${quoted(twin)}, but config.json says tie_word_embeddings; ` +
      "set that to false, or remove the tensor",
  );
}

/** Without a branch for each value: zero times one that is not finite is NaN, and stays it. */
function areFinite(values: Float32Array): boolean {
  let [a, b, c, d] = [0, 0, 0, 0];
  const end = values.length - (values.length % 4);
  for (let i = 0; i < end; i += 4) {
    a += values[i] * 0;
    b += values[i + 1] * 0;
    c += values[i + 2] * 0;
    d += values[i + 3] * 0;
  }
  for (let i = end; i < values.length; i++) a += values[i] * 0;
  return a + b + c + d === 0;
}

/**
 * The values of a tensor of a checkpoint. Throws a KilnError that names it where it holds no floating-point numbers or one
 * that is not finite, or too large for f16.
 */
export function checkedValues(name: string, tensor: HostTensor, f16: boolean): Float32Array {
  if (!FLOATS.includes(tensor.dtype)) {
    throw misfit(`holds ${quoted(name)} as ${tensor.dtype}; save the model in float32, float16 or bfloat16`);
  }
  const values = toFloat32(tensor);
  // The largest number that f16 does not round to infinity, and that of f32.
  const limit = f16 ? 65519.996 : 3.4028234663852886e38;
  if (!f16 && areFinite(values)) return values;
  for (let i = 0; i < values.length; i++) {
    // False for NaN, which must not pass.
    if (Math.abs(values[i]) <= limit) continue;
    if (f16 && Number.isFinite(values[i])) {
      throw misfit(`holds ${values[i]} in ${quoted(name)}, which f16 cannot; use --dtype f32`);
    }
    throw misfit(
      `holds ${values[i]} in ${quoted(name)} (value ${i}): its training diverged or the file is damaged; use another`,
    );
  }
  return values;
}
