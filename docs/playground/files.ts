import type { Zippable } from "fflate";
import { KilnError } from "kiln";
import {
  type CausalLM,
  GPT2LMHeadModel,
  type HostTensor,
  LlamaForCausalLM,
  loadWeights,
  parseGpt2Config,
  parseLlamaConfig,
  parseSafetensors,
  readTensors,
  serializeSafetensors,
} from "kiln/models";
import { Tokenizer, type TokenizerConfigs, type TokenizerJson } from "kiln/tokenizer";

/** The file that writes zips, put in by the build. */
declare const ZIP: string;

/** A zip of the model's Hugging Face folder, which `kiln serve`, transformers and llama.cpp's converter load. */
export async function zipModel(model: CausalLM, tokenizer: Tokenizer): Promise<Uint8Array<ArrayBuffer>> {
  const { strToU8, zipSync } = (await import(ZIP)) as typeof import("./zip.ts");
  const json = { "config.json": model.toHfConfig(), ...model.extraFiles() };
  const files: Zippable = {
    // Random numbers do not get smaller, and trying takes time.
    "model.safetensors": [serializeSafetensors(await readTensors(model.stateDict())), { level: 0 }],
  };
  for (const [name, value] of Object.entries(json))
    files[name] = strToU8(`${JSON.stringify(value, null, 2)}\n`);
  for (const [name, text] of Object.entries(tokenizer.files())) files[name] = strToU8(text);
  return zipSync({ "kiln-model": files }) as Uint8Array<ArrayBuffer>;
}

const decoders = {
  llama: (config: unknown) => new LlamaForCausalLM(parseLlamaConfig(config, "config.json")),
  gpt2: (config: unknown) => new GPT2LMHeadModel(parseGpt2Config(config, "config.json")),
};

/** What was dropped, with a model to fall back on where it was the weights alone. */
export interface Source {
  files: ReadonlyMap<string, Uint8Array>;
  known: { config: unknown; tokenizer: Tokenizer } | null;
  /** The most bytes that one tensor may have. */
  maxBindingBytes: number;
}

/** The model of dropped files: a Hugging Face folder, or the weights of a model of the run's shape. @throws KilnError */
export function openModel({ files, known, maxBindingBytes }: Source): {
  model: CausalLM;
  tokenizer: Tokenizer;
} {
  const weights = [...files].filter(([name]) => name.endsWith(".safetensors"));
  if (weights.length === 0)
    throw new KilnError("there is no model.safetensors: drop the folder of a model in Hugging Face layout.");
  const isAlone = !files.has("config.json");
  if (isAlone && known === null)
    throw new KilnError(
      `${weights[0][0]} does not say what model it is of: drop its whole folder, with config.json and tokenizer.json.`,
    );
  const tokenizer = isAlone ? known!.tokenizer : tokenizerOf(files);
  const config = isAlone ? known!.config : json(files, "config.json");
  const type = (config as { model_type?: unknown }).model_type;
  if (type !== "llama" && type !== "gpt2")
    throw new KilnError(
      `config.json says model_type ${JSON.stringify(type)}, which this page cannot run: open a llama or gpt2.`,
    );
  const model = decoders[type](config);
  const tensors = new Map<string, HostTensor>();
  for (const [name, bytes] of weights)
    for (const [key, tensor] of parseSafetensors(bytes, name)) tensors.set(key, tensor);
  const largest = Math.max(...[...tensors.values()].map(({ shape }) => 4 * shape.reduce((a, b) => a * b, 1)));
  if (largest > maxBindingBytes)
    throw new KilnError(
      `the model is too large for this adapter: a tensor takes ${mib(largest)}, a buffer may have ${mib(maxBindingBytes)}; open a smaller model.`,
    );
  try {
    loadWeights(model, tensors);
  } catch (error) {
    model.dispose();
    if (!isAlone) throw error;
    throw new KilnError(
      `${weights[0][0]} is of another model than this run's: drop its whole folder, with config.json and tokenizer.json.`,
      { cause: error },
    );
  }
  return { model, tokenizer };
}

const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;

function tokenizerOf(files: Source["files"]): Tokenizer {
  if (!files.has("tokenizer.json"))
    throw new KilnError("there is no tokenizer.json: drop the model's whole folder.");
  const configs: Record<string, unknown> = {};
  for (const name of ["tokenizer_config", "generation_config", "config"])
    if (files.has(`${name}.json`)) configs[name] = json(files, `${name}.json`);
  const template = files.get("chat_template.jinja");
  if (template) configs.chat_template = new TextDecoder().decode(template);
  return new Tokenizer(json(files, "tokenizer.json") as TokenizerJson, configs as TokenizerConfigs);
}

function json(files: Source["files"], name: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(files.get(name)));
  } catch (cause) {
    throw new KilnError(`${name} is no JSON: its file is damaged; download the model again.`, { cause });
  }
}
