import { existsSync } from "node:fs";
import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteDirectory, currentDirectory, readJson, writeJson } from "../../core/platform/files.ts";
import { type Shape, sameShape, show } from "../../core/shape.ts";
import { type ComputeDtype, Conv1D } from "../../nn/index.ts";
import { Tokenizer } from "../../tokenizer/index.ts";
import { type AdapterConfig, parseAdapterConfig } from "../adapter_config.ts";
import { type AdapterPlan, type AnyModel, defaultsFor, planOf, tensorShapes } from "../adapter_plan.ts";
import { type Adapter, adapterOf, createAdapter, useAdapter } from "../adapters.ts";
import { findModel } from "../hub/resolve.ts";
import { withTokenizer } from "../vocabulary.ts";
import { isGguf } from "./gguf.ts";
import { readGgufAdapter } from "./gguf_adapter.ts";
import { checkedValues, type LoadedModel, loadModel, readTensors } from "./hf_directory.ts";
import { type HostTensor, readSafetensors, writeSafetensors } from "./safetensors.ts";
import { quoted } from "./safetensors_header.ts";

/** What a PEFT directory or a GGUF file holds, checked against a model. */
export interface AdapterFiles {
  config: AdapterConfig;
  plan: AdapterPlan;
  /** The values of a tensor, by PEFT's name; throws a KilnError for values that are not finite (`half`: in f16). */
  values(name: string, half: boolean): ReturnType<typeof checkedValues>;
}

/** Reads an adapter for a model, by its path or a name that `findModel` knows. Throws as `loadAdapter`. */
export async function readAdapter(model: AnyModel, given: string): Promise<AdapterFiles> {
  const path = await findModel(given);
  const { file, config, weights } = isGguf(path)
    ? { file: path, ...readGgufAdapter(model, path) }
    : await readPeft(model, path);
  const plan = planOf(model, config, false);
  const shapes = tensorShapes(plan, config.use_dora);
  assertFits(file, weights, shapes);
  await assertBase(file, model, weights, shapes);
  return { config, plan, values: (name, half) => checkedValues(name, weights.get(name)!, half) };
}

/**
 * Adds the adapter of a PEFT directory or a GGUF file to a model; `useAdapter` makes it the active one. Throws a one-line KilnError for
 * another kind of adapter, one for another base (which names the tensor that does not fit), a tensor that is missing or that
 * the model has no place for, and values that are not finite.
 */
export async function loadAdapter(model: AnyModel, path: string, name?: string): Promise<Adapter> {
  const { config, plan, values } = await readAdapter(model, path);
  return createAdapter(model, name, config, plan, (adapter) => {
    for (const [key, tensor] of adapter.tensors(false)) tensor.write(values(key, tensor.dtype === "f16"));
  });
}

async function readPeft(model: AnyModel, path: string) {
  const directory = await currentDirectory(path);
  const source = join(directory, "adapter_config.json");
  const config = defaultsFor(model, parseAdapterConfig(await readJson(source), source));
  const file = join(directory, "adapter_model.safetensors");
  const weights = new Map<string, HostTensor>();
  for (const [key, tensor] of await readSafetensors(file))
    weights.set(key.replace(/\.lora_magnitude_vector\.weight$/, ".lora_magnitude_vector"), tensor);
  return { file, config, weights };
}

/**
 * `loadModel`, and if there is one with the adapter of a PEFT directory or a GGUF file at work. Where a directory holds a
 * tokenizer, it takes the place of the base's; tokens that the base lacks get rows, which such an adapter brings along.
 * `prepare` may change the model before the adapter is added.
 */
export async function loadAdapted<M extends Pick<LoadedModel, "model" | "tokenizer"> = LoadedModel>(
  base: string,
  adapter: string | undefined,
  dtype?: ComputeDtype,
  prepare: (loaded: LoadedModel) => Promise<M> = async (loaded) => loaded as never,
): Promise<M> {
  if (adapter === undefined) return prepare(await loadModel(base, dtype));
  const path = await findModel(adapter);
  const directory = isGguf(path) ? path : await currentDirectory(path);
  if (!isGguf(path)) await readJson(join(directory, "adapter_config.json")); // refused before anything is loaded
  const loaded = await loadModel(base, dtype);
  const tokenizer = existsSync(join(directory, "tokenizer.json"))
    ? Tokenizer.load(directory)
    : loaded.tokenizer;
  const hasGrown = tokenizer.vocabSize > loaded.tokenizer.vocabSize;
  const model = hasGrown ? await withTokenizer(loaded.model, tokenizer) : loaded.model;
  const prepared = await prepare({ ...loaded, model, tokenizer });
  await loadAdapter(prepared.model, directory);
  useAdapter(prepared.model, "default");
  return prepared;
}

function assertFits(
  file: string,
  weights: ReadonlyMap<string, HostTensor>,
  shapes: ReadonlyMap<string, Shape>,
) {
  for (const [name, shape] of shapes) {
    const found = weights.get(name);
    if (!found) throw misfit(file, `lacks ${name}, which adapter_config.json asks for`);
    if (!sameShape(found.shape, shape))
      throw misfit(
        file,
        `is for another base: ${name} is ${show(found.shape)}, this model and adapter_config.json need ${show(shape)}`,
      );
  }
}

/** PEFT may save embeddings of the base along with an adapter: they must be this model's. */
async function assertBase(
  file: string,
  model: AnyModel,
  weights: ReadonlyMap<string, HostTensor>,
  shapes: ReadonlyMap<string, Shape>,
): Promise<void> {
  const parameters = model.namedParameters();
  for (const [name, tensor] of weights) {
    if (shapes.has(name)) continue;
    const own = parameters.get(name.replace(/^base_model\.model\./, "").replace(".base_layer.", "."));
    if (!own)
      throw misfit(file, `holds ${quoted(name)}, for which this model and adapter_config.json have no place`);
    const [values, wanted] = [checkedValues(name, tensor, false), await own.data()];
    if (values.length !== wanted.length || values.some((value, i) => value !== wanted[i]))
      throw misfit(file, `is for another base: its ${quoted(name)} is not this model's`);
  }
}

const misfit = (file: string, problem: string) =>
  new KilnError(`${file} ${problem}`, { code: "checkpoint_misfit" });

/** Puts the values of a directory that `saveAdapter` wrote into the adapter that a model has. */
export async function restoreAdapter(path: string, model: AnyModel, name = "default"): Promise<void> {
  const adapter = adapterOf(model, name);
  const file = join(await currentDirectory(path), "adapter_model.safetensors");
  const weights = await readSafetensors(file);
  const tensors = adapter.tensors(model.adapter === adapter);
  assertFits(file, weights, new Map([...tensors].map(([key, { shape }]) => [key, shape])));
  for (const [key, tensor] of tensors) tensor.write(checkedValues(key, weights.get(key)!, false));
}

/** Writes a model's adapter as a directory that PEFT loads, all or nothing. */
export async function saveAdapter(directory: string, model: AnyModel, name = "default"): Promise<void> {
  await atomicWriteDirectory(directory, (temporary) => writeAdapterFiles(temporary, model, name));
}

/** Writes the files of such a directory into one that exists. */
export async function writeAdapterFiles(directory: string, model: AnyModel, name = "default"): Promise<void> {
  const adapter = adapterOf(model, name);
  const shown = model.adapter === adapter || model.merged === adapter;
  const tensors = await readTensors(adapter.tensors(shown));
  const config = {
    peft_type: "LORA",
    ...adapter.config,
    bias: "none",
    fan_in_fan_out: adapter.targets.some((layer) => layer instanceof Conv1D),
    inference_mode: true,
  };
  await writeSafetensors(join(directory, "adapter_model.safetensors"), tensors);
  await writeJson(join(directory, "adapter_config.json"), config);
}
