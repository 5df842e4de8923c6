import { KilnError } from "../../core/errors.ts";
import { Embedding } from "../../nn/index.ts";
import { type AdapterConfig, parseAdapterConfig } from "../adapter_config.ts";
import { type AnyModel, defaultsFor, planOf, tensorNames } from "../adapter_plan.ts";
import { type Gguf, type GgufTensor, readGguf, writeGguf } from "./gguf.ts";
import { encodeBlocks } from "./gguf_blocks.ts";
import type { GgufValue } from "./gguf_header.ts";
import { fromGguf, type GgufWriting, layoutOf, type Stored, split, toGguf } from "./gguf_model.ts";
import { type HostTensor, toFloat32 } from "./safetensors.ts";
import { quoted } from "./safetensors_header.ts";
import { readTensors } from "./save_directory.ts";

/**
 * LoRA adapters as llama.cpp has them (convert_lora_to_gguf.py, llama-adapter.cpp): A and B of a matrix beside its name, and one
 * alpha for all, which llama.cpp divides by each B's rank.
 */

/** Rows of B are rows of the matrix, so they change places with them; A of an embedding has a row for each token. */
const storedA = (isEmbedding: boolean): Stored => (isEmbedding ? { transposed: true } : {});
const storedB = ({ heads }: Stored): Stored => (heads ? { heads } : {});

/**
 * Writes the model's active adapter for llama.cpp, in f32 or f16. Scales that one alpha cannot say (of `alpha_pattern`) go into B.
 * Throws a KilnError for what such a file has no place for: DoRA, and parameters that are trained whole.
 */
export async function writeGgufAdapter(path: string, model: AnyModel, writing: GgufWriting): Promise<void> {
  await writeGguf(path, await adapterGguf(model, writing));
}

async function adapterGguf(model: AnyModel, { dtype, name }: GgufWriting): Promise<Gguf> {
  const adapter = model.adapter!;
  const { config } = adapter;
  const { names, stored } = layoutOf(model.config);
  const plan = planOf(model, config, false);
  const targets = [...plan.targets];
  if (config.use_dora) throw noPlace("DoRA's magnitudes");
  const [whole] = plan.whole.keys();
  if (whole) throw noPlace(`${whole}, which is trained whole`);
  const isTied = !model.namedParameters().has("lm_head.weight");
  const embedding = targets.find(([, { layer }]) => layer instanceof Embedding);
  if (embedding && isTied) throw noPlace(`a change of ${embedding[0]} alone, which the head shares`);
  const alphas = targets.map(([, { rank, alpha }]) => (config.use_rslora ? alpha * Math.sqrt(rank) : alpha));
  const lora = Math.fround(alphas[0]);
  const values = await readTensors(adapter.tensors(true));
  const tensors = new Map<string, GgufTensor>();
  targets.forEach(([module, { layer }], i) => {
    const { stem, layer: n } = split(`${module}.weight`);
    if (!Object.hasOwn(names, stem)) throw noPlace(`a change of ${module}`);
    const [a, b] = tensorNames(module, layer);
    const add = (end: string, key: string, how: Stored, factor: number) => {
      const tensor = values.get(key)!;
      const type = dtype === "f16" ? "F16" : "F32";
      tensors.set(`${names[stem].replace("N", n)}.weight.lora_${end}`, {
        type,
        shape: how.transposed ? tensor.shape.toReversed() : tensor.shape,
        bytes: () => {
          const written = toGguf(tensor, how);
          return encodeBlocks(type, factor === 1 ? written : written.map((value) => value * factor), key);
        },
      });
    };
    add("a", a, storedA(layer instanceof Embedding), 1);
    add("b", b, storedB(stored(stem)), alphas[i] === alphas[0] ? 1 : alphas[i] / lora);
  });
  const text = (value: string): GgufValue => ({ type: "string", value });
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", text(model.config.model_type)],
    ["general.type", text("adapter")],
    ["general.name", text(name)],
    ["adapter.type", text("lora")],
    ["adapter.lora.alpha", { type: "f32", value: lora }],
  ]);
  return { metadata, tensors };
}

const noPlace = (what: string) =>
  new KilnError(
    `a GGUF adapter has no place for ${what}; merge it: export the adapter with --to hf, and that with --to gguf`,
    { code: "gguf_unsupported" },
  );

/** The adapter of such a file, as a PEFT directory would hold it. Throws a KilnError for a file of another kind or architecture. */
export function readGgufAdapter(
  model: AnyModel,
  path: string,
): { config: AdapterConfig; weights: Map<string, HostTensor> } {
  const { metadata, tensors } = readGguf(path);
  const refuse = (problem: string) =>
    new KilnError(`${path}: ${problem}; give an adapter of this model`, { code: "gguf_unsupported" });
  const expect = (key: string, wanted: string) => {
    const found = metadata.get(key)?.value;
    if (found !== wanted) throw refuse(`${key} is ${quoted(String(found ?? "missing"))}, not ${wanted}`);
  };
  expect("general.type", "adapter");
  expect("adapter.type", "lora");
  expect("general.architecture", model.config.model_type);
  const alpha = metadata.get("adapter.lora.alpha")?.value;
  if (typeof alpha !== "number" || !Number.isFinite(alpha)) throw refuse("adapter.lora.alpha is no number");
  const { names, stored } = layoutOf(model.config);
  const original = new Map(Object.entries(names).map(([hf, own]) => [own, hf]));
  const modules = model.namedModules();
  const weights = new Map<string, HostTensor>();
  const ranks: Record<string, number> = {};
  for (const [name, tensor] of tensors) {
    const [, matrix, end] = /^(.*)\.lora_([ab])$/.exec(name) ?? [];
    const { stem, layer: n } = split(matrix ?? "");
    const hf = original.get(stem);
    const module = hf?.replace("N", n);
    const layer = module === undefined ? undefined : modules.get(module);
    if (hf === undefined || module === undefined || layer === undefined || tensor.shape.length !== 2)
      throw refuse(`it holds ${quoted(name)}, for which this model has no place`);
    const [a, b] = tensorNames(module, layer as never);
    if (end === "a") weights.set(a, fromGguf(tensor, storedA(layer instanceof Embedding)));
    else {
      ranks[module] = tensor.shape[1];
      weights.set(b, fromGguf(tensor, storedB(stored(hf))));
    }
  }
  const target_modules = Object.keys(ranks);
  if (target_modules.length === 0) throw refuse("it changes nothing");
  const given = { r: ranks[target_modules[0]], lora_alpha: alpha, rank_pattern: ranks, target_modules };
  return { config: defaultsFor(model, parseAdapterConfig(given, path)), weights };
}

/** By what a model's active adapter changes it: A of each matrix, and B times its scale; DoRA's magnitudes and whole parameters. */
export async function adapterChanges(model: AnyModel): Promise<Map<string, HostTensor>> {
  const { config, tensors } = { config: model.adapter!.config, tensors: model.adapter!.tensors(true) };
  const found = await readTensors(tensors);
  for (const [module, { layer, rank, alpha }] of planOf(model, config, false).targets) {
    const [, b] = tensorNames(module, layer);
    const scale = alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
    const scaled = toFloat32(found.get(b)!).map((value) => value * scale);
    found.set(b, { ...found.get(b)!, bytes: new Uint8Array(scaled.buffer) });
  }
  return found;
}
