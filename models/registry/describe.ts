import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { usageError } from "../../core/errors.ts";
import { readJson } from "../../core/platform/files.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { parseAdapterConfig } from "../adapter_config.ts";
import { isEncoderConfig, type ModelConfig, readModelConfig, shapeOf } from "../architectures.ts";
import { isGguf } from "../formats/gguf.ts";
import { readTokenizer } from "../formats/hf_directory.ts";
import { type LabelKeys, labelNames, taskOf } from "../labels.ts";
import type { Facts, Kind, Signature } from "./manifest.ts";
import { parseReference, versionName, versionOfPath } from "./names.ts";
import { type RegisteredVersion, Registry } from "./registry.ts";
import { runFacts } from "./run_facts.ts";

/** What is said of a version besides what its files say. */
export interface AddOptions {
  registry?: Registry;
  /** Of an adapter: the model that it is for; default: the one that it names. */
  base?: string;
  note?: string;
}

/**
 * Adds a model's folder, an adapter's or a GGUF file to the registry as the next version of `name`, with what its run, if it
 * came of one, knows of settings, metrics and data.
 * @throws KilnError for a path that holds no model that kiln can load, and as `Registry.add`.
 */
export async function addModel(
  name: string,
  path: string,
  options: AddOptions = {},
): Promise<RegisteredVersion> {
  const { registry = new Registry(), note = "" } = options;
  const { settings, ...run } = await runFacts(path);
  const content = await describe(path, options.base);
  const numbered = (reference: string) => inRegistry(registry, reference);
  const origins = [content.base, settings?.init_from, versionOfPath(path, registry.folder)];
  const parents = await Promise.all(origins.filter((origin) => origin != null).map(numbered));
  return registry.add(name, path, {
    ...run,
    ...content,
    base: content.base === null ? null : ((await numbered(content.base)) ?? content.base),
    parents: [...new Set(parents.filter((parent) => parent !== null))],
    note,
  });
}

/** The version, with its number, that a reference or a path below the registry names; null for all else. */
async function inRegistry(registry: Registry, given: string): Promise<string | null> {
  const reference = parseReference(given) ? given : versionOfPath(given, registry.folder);
  const name = reference && parseReference(reference)!.name;
  if (!name || !(await registry.has(name))) return null;
  const { version } = await registry.find(reference!);
  return versionName(name, version);
}

async function describe(path: string, base?: string): Promise<Pick<Facts, "kind" | "signature" | "base">> {
  const adapter = join(path, "adapter_config.json");
  if (!existsSync(adapter)) {
    const config = await readModelConfig(path);
    return { ...kindAndSignature(config, isGguf(path), await tokenizerOf(path)), base: null };
  }
  const { base_model_name_or_path, task_type } = parseAdapterConfig(await readJson(adapter), adapter);
  const named = base ?? base_model_name_or_path;
  if (named === null)
    throw usageError(`${adapter} does not name the model that it is for: give --base MODEL`);
  const task = task_type === "SEQ_CLS" ? "text-classification" : "text-generation";
  return { kind: "adapter", signature: signature(task, "text", null, await tokenizerOf(path)), base: named };
}

/** Null for a folder without one. */
const tokenizerOf = (path: string) =>
  isGguf(path) || existsSync(join(path, "tokenizer.json")) ? readTokenizer(path) : null;

function kindAndSignature(
  config: ModelConfig,
  gguf: boolean,
  tokenizer: Tokenizer | null,
): { kind: Kind; signature: Signature } {
  const length = shapeOf(config).max_position_embeddings;
  if (!isEncoderConfig(config)) {
    const task = "decoder_start_token_id" in config ? "text2text-generation" : "text-generation";
    return { kind: gguf ? "gguf" : "base", signature: signature(task, "text", length, tokenizer) };
  }
  const keys = config as ModelConfig & LabelKeys;
  const task = taskOf(keys);
  const classifies = task === "text-classification" || task === "token-classification";
  const output = classifies ? labelNames(keys) : task === "feature-extraction" ? "vector" : "text";
  return {
    kind: classifies ? "classifier" : "encoder",
    signature: signature(task, output, length, tokenizer),
  };
}

function signature(
  task: string,
  output: Signature["output"],
  max_model_len: number | null,
  tokenizer: Tokenizer | null,
): Signature {
  const template = tokenizer?.chatTemplate ?? null;
  return {
    task,
    input: template === null ? "text" : "messages",
    output,
    max_model_len,
    tokenizer_sha256: tokenizer?.hash() ?? null,
    chat_template_sha256: template === null ? null : createHash("sha256").update(template).digest("hex"),
  };
}
