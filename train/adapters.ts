import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { dispose } from "../core/scope.ts";
import { tensor } from "../core/tensor.ts";
import { addAdapter, mergeAdapter, unmergeAdapter, useAdapter } from "../models/adapters.ts";
import type { CausalLM } from "../models/decoder.ts";
import { saveModel } from "../models/formats/hf_directory.ts";
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
 * into NF4 before. Where the vocabulary has `grown`, the
 * embedding (and a head of its own) is trained and saved whole beside it. `base` goes into adapter_config.json.
 */
export async function addTrainedAdapter(
  model: CausalLM,
  settings: AdapterSettings,
  { base, grown, seed, say }: { base: string; grown: boolean; seed: number; say: Say },
): Promise<AddedAdapter> {
  const hash = await weightsHash(model);
  const perToken = [...model.namedModules()].flatMap(([name, layer]) =>
    (layer instanceof Embedding || layer instanceof Linear) &&
    layer.weight.perToken &&
    layer.weight.shape[0] === model.shape.vocab_size
      ? [name.split(".").at(-1)!]
      : [],
  );
  const { rank, alpha, dropout, targets = null, rslora, dora } = settings;
  const config = {
    ...{ r: rank, lora_alpha: alpha, lora_dropout: dropout, target_modules: targets },
    ...{ use_rslora: rslora, use_dora: dora, base_model_name_or_path: base },
    modules_to_save: grown ? perToken : null,
  };
  const count = (sizes: Iterable<{ size: number }>) =>
    [...sizes].reduce((sum, { size }) => sum + size, 0).toLocaleString("en");
  const all = count(model.parameters());
  if (settings.kind === "qlora") await quantizeModel(model);
  addAdapter(model, config, { seed });
  useAdapter(model, "default");
  say(`adapter: ${count(model.trainedParameters().values())} parameters are trained, the model has ${all}`);
  if (grown)
    say(`the vocabulary has grown: ${perToken.join(" and ")} are trained and saved with the adapter`);
  return { adapter: settings, base: hash };
}

/** Places of the batch whose logits tell how much merging rounds. */
const probed = 16;

/**
 * Checks that training changed the adapter, and writes the model with it merged to `merged/` of the run; says how much that
 * rounds the logits of `probe`. An adapter of a quantized model is merged into the values that its matrices stand for, in a copy
 * that `reopen` makes of the model without the adapter. Throws a KilnError that names a matrix which is still zero, as at the start.
 */
export async function concludeAdapter(
  model: CausalLM,
  tokenizer: Tokenizer,
  { outDir, probe, reopen, say }: { outDir: string; probe: Batch; reopen(): Promise<CausalLM>; say: Say },
): Promise<void> {
  for (const [name, values] of model.adapter!.tensors(true)) {
    if (!/lora_B\.weight$|lora_embedding_A$/.test(name)) continue;
    if ((await values.data()).some((value) => value !== 0)) continue;
    throw new KilnError(
      `the adapter has not changed: ${name} is still zero, so its layer answers as before; check that the loss fell, and raise train.learning_rate or train.steps`,
    );
  }
  const column = (values: Int32Array) => {
    const first = values.slice(0, probed);
    return tensor(first, [1, first.length], "i32");
  };
  const isQuantized = [...model.namedModules().values()].some((layer) => layer instanceof QuantizedLinear);
  const whole = isQuantized ? await dequantizedCopy(model, await reopen()) : model;
  const { drift, largest } = await mergeAdapter(whole, () => {
    const context = { positions: column(probe.positions), segments: column(probe.segments) };
    return whole.logits(whole.hidden(column(probe.tokens), context));
  });
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
async function dequantizedCopy(model: CausalLM, base: CausalLM): Promise<CausalLM> {
  await quantizeModel(base);
  await dequantizeModel(base);
  const tensors = addAdapter(base, model.adapter!.config).tensors(false);
  for (const [name, values] of model.adapter!.tensors(true))
    tensors.get(name)!.write(Float32Array.from(await values.data()));
  useAdapter(base, "default");
  return base;
}
