import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { dispose } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { addAdapter, mergeAdapter, unmergeAdapter, useAdapter } from "../models/adapters.ts";
import type { CausalLM } from "../models/decoder.ts";
import { saveModel } from "../models/formats/hf_directory.ts";
import type { Model } from "../models/model.ts";
import { dequantizeModel, quantizeModel } from "../models/quantize.ts";
import { Embedding, Linear, QuantizedLinear } from "../nn/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Batch } from "./data/index.ts";
import { weightsHash } from "./model_settings.ts";
import type { AdapterSettings } from "./settings/adapter.ts";

/** What decides the numbers of a run that trains an adapter. */
export interface AddedAdapter {
  adapter: AdapterSettings;
  /** SHA-256 of the weights that the adapter changes. */
  base: string;
}

type Say = (line: string) => void;

/**
 * Gives a model an adapter and makes it the active one, so that it alone is trained; for `qlora`, the model's matrices are put
 * into NF4 before. The modules whose names end as one of `whole` says are trained whole and saved beside it; null: the head of
 * a classifier. `base` goes into adapter_config.json.
 */
export async function addTrainedAdapter(
  model: Model<never>,
  settings: AdapterSettings,
  { base, whole, seed, say }: { base: string; whole: string[] | null; seed: number; say: Say },
): Promise<AddedAdapter> {
  const hash = await weightsHash(model);
  const { rank, alpha, dropout, targets = null, rslora, dora } = settings;
  const all_linear = targets?.length === 1 && targets[0] === "all-linear";
  const config = {
    ...{ r: rank, lora_alpha: alpha, lora_dropout: dropout },
    target_modules: all_linear ? "all-linear" : targets,
    ...{ use_rslora: rslora, use_dora: dora, base_model_name_or_path: base, modules_to_save: whole },
  };
  const count = (sizes: Iterable<{ size: number }>) =>
    [...sizes].reduce((sum, { size }) => sum + size, 0).toLocaleString("en");
  const all = count(model.parameters());
  if (settings.kind === "qlora") await quantizeModel(model);
  const adapter = addAdapter(model, config, { seed });
  useAdapter(model, "default");
  say(`adapter: ${count(model.trainedParameters().values())} parameters are trained, the model has ${all}`);
  const saved = adapter.config.modules_to_save ?? [];
  if (saved.length > 0) say(`trained whole, and saved with the adapter: ${saved.join(", ")}`);
  return { adapter: settings, base: hash };
}

/** The names of a decoder's embedding, and of a head of its own: what a vocabulary that has grown must train whole. */
export const perTokenModules = (model: CausalLM): string[] =>
  [...model.namedModules()].flatMap(([name, layer]) =>
    (layer instanceof Embedding || layer instanceof Linear) &&
    layer.weight.perToken &&
    layer.weight.shape[0] === model.shape.vocab_size
      ? [name.split(".").at(-1)!]
      : [],
  );

/** The names of a classifier's head, and of BERT's pooler, which is new with a new head: PEFT would leave it at random. */
export const headModules = (model: Model<never>): string[] =>
  ["classifier", "score", "pooler"].filter((end) =>
    [...model.namedModules().keys()].some((name) => name.endsWith(end)),
  );

/** Places of a batch whose logits tell how much merging rounds. */
const probed = 16;

/** What a decoder says of the first places of a batch. */
export const firstLogits =
  (batch: Batch) =>
  (model: CausalLM): Tensor => {
    const column = (values: Int32Array) => {
      const first = values.slice(0, probed);
      return tensor(first, [1, first.length], "i32");
    };
    const context = { positions: column(batch.positions), segments: column(batch.segments) };
    return model.logits(model.hidden(column(batch.tokens), context));
  };

interface Conclusion<M> {
  outDir: string;
  /** What merging should leave as it is. */
  logits(model: M): Tensor;
  /** Makes the model without the adapter once more. */
  reopen(): Promise<M>;
  say: Say;
}

/**
 * Checks that training changed the adapter, and writes the model with it merged to `merged/` of the run; says how much that
 * rounds `logits`. An adapter of a quantized model is merged into the values that its matrices stand for, in a copy that `reopen`
 * makes. Throws a KilnError that names a matrix which is still zero, as at the start.
 */
export async function concludeAdapter<M extends Model<never>>(
  model: M,
  tokenizer: Tokenizer,
  { outDir, logits, reopen, say }: Conclusion<M>,
): Promise<void> {
  for (const [name, values] of model.adapter!.tensors(true)) {
    if (!/lora_B\.weight$|lora_embedding_A$/.test(name)) continue;
    if ((await values.data()).some((value) => value !== 0)) continue;
    throw new KilnError(
      `the adapter has not changed: ${name} is still zero, so its layer answers as before; check that the loss fell, and raise train.learning_rate or train.steps`,
    );
  }
  const isQuantized = [...model.namedModules().values()].some((layer) => layer instanceof QuantizedLinear);
  const whole = isQuantized ? await dequantizedCopy(model, await reopen()) : model;
  const { drift, largest } = await mergeAdapter(whole, () => logits(whole));
  const folder = join(outDir, "merged");
  try {
    await saveModel(folder, whole, tokenizer);
  } finally {
    unmergeAdapter(whole);
    if (isQuantized) dispose(whole.parameters());
  }
  say(
    `merged into the model: ${folder} (logits up to ${largest.toFixed(2)} move by ${drift.toExponential(1)})`,
  );
}

/** `base` with the values of its matrices in NF4, and the adapter of `model`. */
async function dequantizedCopy<M extends Model<never>>(model: Model<never>, base: M): Promise<M> {
  await quantizeModel(base);
  await dequantizeModel(base);
  const tensors = addAdapter(base, model.adapter!.config).tensors(false);
  for (const [name, values] of model.adapter!.tensors(true))
    tensors.get(name)!.write(Float32Array.from(await values.data()));
  useAdapter(base, "default");
  return base;
}
