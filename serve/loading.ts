import { definedOnly } from "../core/defined_only.ts";
import { device } from "../core/device.ts";
import { byteSize } from "../core/dtype.ts";
import { KilnError } from "../core/errors.ts";
import { say } from "../core/platform/say.ts";
import {
  type AnyModel,
  decoderConfig,
  isEncoderConfig,
  readModelConfig,
  shapeOf,
} from "../models/architectures.ts";
import { CausalLM, type DecoderShape } from "../models/decoder.ts";
import { Encoder } from "../models/encoder.ts";
import { isGguf } from "../models/formats/gguf.ts";
import { fromPretrained, loadModel } from "../models/formats/hf_directory.ts";
import { TextReader } from "../models/text_reader.ts";
import type { ComputeDtype } from "../nn/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { encoderTask, sentenceSettings } from "./encoder_task.ts";
import { ModelEncoderRunner } from "./engine/encoder_runner.ts";
import { blocksIn, cachePlan, ModelRunner } from "./engine/runner.ts";
import type { ModelFacts, ModelPool, ServedModel } from "./models.ts";

/** A model to serve. */
export interface ModelSource {
  /** The name that clients give, and others for it. */
  readonly name: string;
  readonly aliases: readonly string[];
  /** A model's folder, or a GGUF file. */
  readonly path: string;
}

/** How models are served. */
export interface LoadSettings {
  readonly dtype: ComputeDtype;
  /** Tokens of the longest prompt plus answer; absent: as many as each model has positions. */
  readonly maxModelLen?: number;
  readonly maxSequences?: number;
  readonly maxBatchedTokens?: number;
  /** Adapters that a model may have beside each other, and the rank that one may have. */
  readonly maxAdapters?: number;
  readonly maxRank?: number;
}

/**
 * Room for the keys and values of all models together. At the start it is shared out evenly, but no model gets more than its
 * longest answers need; what is left, and what unloaded models give back, models get that are loaded later.
 */
export class CacheBudget {
  #free: number;
  /** What each model has, by its name. */
  readonly #taken = new Map<string, number>();

  /** @param bytes of the whole. */
  constructor(bytes: number) {
    this.#free = bytes;
  }

  /** Gives each of `models` its share of their `needs`; as much as for `spare` more is left. */
  share(models: readonly string[], needs: readonly number[], spare: number): void {
    const order = needs.map((_, i) => i).sort((a, b) => needs[a] - needs[b]);
    for (const [rank, i] of order.entries())
      this.take(models[i], Math.min(needs[i], this.#free / (needs.length + spare - rank)));
  }

  /** Gives a model as much of what it wants as is free. */
  take(model: string, wanted: number): void {
    const got = Math.min(wanted, this.#free);
    this.#free -= got;
    this.#taken.set(model, got);
  }

  /** Bytes that a model has. */
  of(model: string): number {
    return this.#taken.get(model) ?? 0;
  }

  give(model: string): void {
    this.#free += this.of(model);
    this.#taken.delete(model);
  }
}

/** Bytes of keys and values that a model uses at most: none for an encoder. @throws KilnError as `contextLength`. */
export async function cacheNeed(path: string, settings: LoadSettings): Promise<number> {
  const config = await readModelConfig(path);
  if (isEncoderConfig(config)) return 0;
  const shape = shapeOf(decoderConfig(config, path)) as DecoderShape;
  const { blockBytes, mostBlocks } = cachePlan(shape, settings.dtype, settings);
  return blockBytes * mostBlocks;
}

/** Loads models into a pool: `loadInto`, or what does the same in another process. */
export type ModelLoader = typeof loadInto;

/**
 * Loads a model and adds it to the pool, ready to answer; `cacheBytes` are for its keys and values.
 * @throws KilnError for a model that cannot be loaded or served, and where the device has no memory for it.
 */
export async function loadInto(
  pool: ModelPool,
  source: ModelSource,
  settings: LoadSettings,
  cacheBytes: number,
): Promise<ServedModel> {
  const { path } = source;
  const isEncoder = isEncoderConfig(await readModelConfig(path));
  const loaded = isEncoder ? await fromPretrained(path, settings) : await loadModel(path, settings.dtype);
  const { model } = loaded;
  try {
    await device()
      .sync()
      .catch(noMemory(`the weights of ${path}`));
    return await addLoaded(pool, source, { ...loaded, path }, settings, cacheBytes, () => model.dispose());
  } catch (error) {
    model.dispose();
    await device().trim?.();
    throw error;
  }
}

interface Loaded<M> {
  readonly model: M;
  readonly tokenizer: Tokenizer;
  /** Where it is from. */
  readonly directory?: string;
  /** What messages call it. */
  readonly path?: string;
}

/**
 * Adds a loaded model to the pool, ready to answer.
 * @param dispose frees the model when it is taken out of the pool; by default it stays.
 * @throws KilnError for a model that cannot be served, and where the device has no memory for its cache.
 */
export async function addLoaded(
  pool: ModelPool,
  source: Pick<ModelSource, "name" | "aliases">,
  { model, ...loaded }: Loaded<AnyModel>,
  settings: LoadSettings,
  cacheBytes: number,
  dispose = () => {},
): Promise<ServedModel> {
  if (model instanceof Encoder) return addEncoder(pool, source, { ...loaded, model }, dispose);
  if (model instanceof CausalLM)
    return addText(pool, source, { ...loaded, model }, { settings, cacheBytes, dispose });
  throw new KilnError(`a ${model.toHfConfig().architectures} cannot be served`);
}

async function addText(
  pool: ModelPool,
  { name, aliases }: Pick<ModelSource, "name" | "aliases">,
  { model, tokenizer, directory, path }: Loaded<CausalLM>,
  { settings, cacheBytes, dispose }: { settings: LoadSettings; cacheBytes: number; dispose: () => void },
): Promise<ServedModel> {
  const runner = await openRunner(model, settings, cacheBytes);
  const unknown = tokenizer.eosIds.filter((id) => !(id >= 0 && id < runner.vocabSize));
  if (unknown.length > 0) {
    say(
      `warning: no answer of ${name} ends at eos_token_id ${unknown.join(", ")}, since the model has tokens 0 to ` +
        `${runner.vocabSize - 1} only; correct generation_config.json or config.json`,
    );
  }
  await runner.warmUp();
  const { maxSequences: maxSeqs, maxBatchedTokens } = settings;
  const limits = definedOnly({ maxSeqs, maxBatchedTokens });
  const close = async () => {
    runner.close();
    dispose();
    await device().trim?.();
  };
  return pool.addText({
    name,
    aliases,
    runner,
    tokenizer,
    close,
    path,
    facts: factsOf(model, directory),
    ...limits,
  });
}

/**
 * A runner with a cache of `cacheBytes`, or of half or a quarter of it and so on, as the device has memory.
 * @throws KilnError where there is none for even one sequence.
 */
async function openRunner(model: CausalLM, settings: LoadSettings, cacheBytes: number): Promise<ModelRunner> {
  const { maxModelLen, maxSequences, maxAdapters, maxRank } = settings;
  const options = definedOnly({ maxModelLen, maxSequences, maxAdapters, maxRank });
  const plan = cachePlan(model.shape, model.computeDtype, options);
  let bytes = cacheBytes;
  for (let blocks = blocksIn(plan, bytes); ; blocks = blocksIn(plan, bytes)) {
    // Too few for one sequence: the runner says what to do, unless it is the device that has no more.
    if (blocks <= plan.blocksPerSequence && bytes < cacheBytes)
      return noMemory("the keys and values of even one answer")(undefined);
    const layers = Array<number>(2 * model.shape.num_hidden_layers).fill(blocks * plan.layerBlockBytes);
    if (blocks <= plan.blocksPerSequence || (await device().fits?.(layers)) !== false) break;
    bytes = (blocks * plan.blockBytes) / 2;
  }
  const runner = new ModelRunner(model, { ...options, cacheBytes: bytes });
  await device().sync();
  const mib = (size: number) => `${Math.floor(size / 2 ** 20)} MiB`;
  if (bytes < cacheBytes)
    say(
      `warning: the device has no memory for ${mib(cacheBytes)} of keys and values: they get ${mib(bytes)}`,
    );
  return runner;
}

/** What a device that has no memory for something throws. */
function noMemory(what: string): (cause: unknown) => never {
  return (cause) => {
    throw new KilnError(
      `the device has no memory for ${what}: stop what else uses it, or take --dtype f16, a lower --max-model-len or a smaller model`,
      { code: "out_of_memory", cause },
    );
  };
}

async function addEncoder(
  pool: ModelPool,
  { name, aliases }: Pick<ModelSource, "name" | "aliases">,
  { model, tokenizer, directory, path = "the model" }: Loaded<Encoder>,
  dispose: () => void,
): Promise<ServedModel> {
  const folder = await sentenceSettings(directory, path);
  const task = encoderTask(model.config, folder, path);
  const reader = new TextReader(model, tokenizer);
  const runner = new ModelEncoderRunner(
    reader,
    task.name === "embed" ? folder.embedding : null,
    folder.longest,
  );
  // Compiles the kernels, so that no client waits for that.
  for (const length of [1, Math.min(64, runner.maxModelLen)])
    await runner.run([{ ids: new Int32Array(length).fill(model.padId) }]);
  const close = async () => {
    dispose();
    await device().trim?.();
  };
  return pool.addEncoder({ name, aliases, runner, tokenizer, task, close, facts: factsOf(model, directory) });
}

function factsOf(model: Encoder | CausalLM, path = ""): ModelFacts {
  const { computeDtype: dtype, numParameters: parameters } = model;
  const bytes = parameters * byteSize(dtype);
  const format = isGguf(path) ? "gguf" : "safetensors";
  return { family: model.config.model_type, format, parameters, bytes, dtype };
}
