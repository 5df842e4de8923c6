import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { KilnError, usageError } from "../../core/errors.ts";
import { atomicWriteDirectory, atomicWriteFile, readJson } from "../../core/platform/files.ts";
import { tensor } from "../../core/tensor.ts";
import { parseAdapterConfig } from "../../models/adapter_config.ts";
import { mergeAdapter } from "../../models/adapters.ts";
import { writeGgufAdapter } from "../../models/formats/gguf_adapter.ts";
import { type GgufDtype, writeGgufModel } from "../../models/formats/gguf_model.ts";
import { writeModelFiles } from "../../models/formats/hf_directory.ts";
import { writeAdapterFiles } from "../../models/formats/peft_directory.ts";
import { modelAt, modelInRun } from "../../models/hub/resolve.ts";
import { type CausalLM, resolveModel } from "../../models/index.ts";
import { newestCheckpoint } from "../run_files.ts";
import { type Comparison, compareExport, type Original, openOriginal, weightsOf } from "./compare.ts";
import { modelfile } from "./modelfile.ts";

/** What `kiln export` makes of a model. */
interface Target {
  description: string;
  dtypes: readonly GgufDtype[];
  /** Whether an adapter stays one; elsewhere it is merged into its base. */
  keepsAdapter?: boolean;
  /** Writes to `out`, which is not there yet, and has `check` load it before it is. */
  write(request: Writing): Promise<void>;
}

interface Writing {
  out: string;
  dtype: GgufDtype;
  original: Original;
  name: string;
  maxShardBytes: number;
  check(path: string): Promise<void>;
}

const all = ["f32", "f16", "q8_0", "q4_0"] as const;

export const exportTargets = {
  hf: {
    description: "a folder in Hugging Face layout, for transformers and vLLM",
    dtypes: ["f32", "f16"],
    write: ({ out, dtype, original: { model, tokenizer }, maxShardBytes, check }) =>
      atomicWriteDirectory(out, async (folder) => {
        await writeModelFiles(folder, model, tokenizer, { halves: dtype === "f16", maxShardBytes });
        await check(folder);
      }),
  },
  gguf: {
    description: "a file for llama.cpp",
    dtypes: all,
    keepsAdapter: true,
    async write({ out, check, ...request }) {
      try {
        await writeFile(out, request);
        await check(out);
      } catch (error) {
        await rm(out, { force: true });
        throw error;
      }
    },
  },
  ollama: {
    description: "a folder with such a file and a Modelfile, for `ollama create NAME -f Modelfile`",
    dtypes: all,
    write: ({ out, check, ...request }) =>
      atomicWriteDirectory(out, async (folder) => {
        const path = join(folder, "model.gguf");
        await writeFile(path, request);
        await check(path);
        const { model, tokenizer } = request.original;
        const contextLength = model.shape.max_position_embeddings;
        await atomicWriteFile(
          join(folder, "Modelfile"),
          modelfile({ from: "./model.gguf", tokenizer, contextLength }),
        );
      }),
  },
  peft: {
    description: "an adapter's folder in PEFT's layout",
    dtypes: ["f32"],
    keepsAdapter: true,
    write: ({ out, original: { model, tokenizer }, check }) =>
      atomicWriteDirectory(out, async (folder) => {
        await writeAdapterFiles(folder, model);
        tokenizer.save(folder);
        await check(folder);
      }),
  },
} satisfies Record<string, Target>;

export type ExportTarget = keyof typeof exportTargets;

function writeFile(
  path: string,
  { original, dtype, name }: Pick<Writing, "original" | "dtype" | "name">,
): Promise<void> {
  const { model, tensors, tokenizer } = original;
  if (!model.adapter) return writeGgufModel(path, model, tensors, tokenizer, { dtype, name });
  if (dtype.startsWith("q")) throw usageError(`an adapter's file holds f32 or f16, not ${dtype}`);
  return writeGgufAdapter(path, model, { dtype, name });
}

export interface ExportOptions {
  to: ExportTarget;
  dtype: GgufDtype;
  /** The model that an adapter is for, where the adapter's own base_model_name_or_path is not on this machine. */
  base?: string | undefined;
  /** The folder or file to write; it must not exist. */
  out: string;
  /** For `hf`: weights of more bytes go to several files. */
  maxShardBytes: number;
}

/**
 * Writes the model or adapter at `path` for another program, loads that again and compares it (see `compareExport`): what is not
 * equal is not kept. An adapter is merged into its base where the format holds whole models. Throws a one-line KilnError for a type
 * that the target lacks, an `out` that exists, a model or tokenizer that the format cannot hold. The model is on the device twice
 * for the comparison.
 */
export async function exportModel(
  path: string,
  { to, dtype, base, out, maxShardBytes }: ExportOptions,
): Promise<Comparison> {
  const target: Target = exportTargets[to];
  if (!target.dtypes.includes(dtype)) {
    throw usageError(`--to ${to} holds ${target.dtypes.join(" or ")}, not ${dtype}; use --to gguf for it`);
  }
  if (existsSync(out)) throw usageError(`${out} exists; remove it or give another --out`);
  const source = await sourceOf(path, to, base);
  let original = await openOriginal(source.path, source.base);
  const { model } = original;
  const merge = model.adapter && !target.keepsAdapter ? await merged(model) : null;
  if (merge) original = { ...original, tensors: await weightsOf(model) };
  let comparison: Comparison | null = null;
  await target.write({
    ...{ out, dtype, original, maxShardBytes },
    name: basename(out).replace(/\.gguf$/i, ""),
    check: async (written) => {
      const found = await compareExport(original, written, dtype, model.adapter && source.base);
      comparison = { ...found, merge };
    },
  });
  return comparison!;
}

/**
 * What is exported: a model, or an adapter and its base. A run stands for the model that it trained, its adapter merged, and for
 * `peft` for the adapter.
 */
export async function sourceOf(given: string, to: ExportTarget, base?: string) {
  const finished = to === "peft" ? [join(given, "model")].find(existsSync) : modelInRun(given);
  const path = finished ?? (await newestCheckpoint(given)) ?? (await modelAt(given));
  const source = join(path, "adapter_config.json");
  if (base === undefined && !existsSync(source)) {
    if (to !== "peft") return { path, base: null };
    throw usageError(`${path} is a whole model, and --to peft writes an adapter; use --to hf`);
  }
  if (base !== undefined) return { path, base: await resolveModel(base) };
  const { base_model_name_or_path: named } = parseAdapterConfig(await readJson(source), source);
  const found = named && (await resolveModel(named).catch(() => null));
  if (found && existsSync(found)) return { path, base: found };
  throw new KilnError(
    `${path} is an adapter of ${named ?? "a model that it does not name"}, which is not here; give --base MODEL`,
    { code: "file_missing" },
  );
}

/** Merges the model's adapter; by how much that moves the logits of a few tokens. */
function merged(model: CausalLM) {
  const row = (values: number[]) => tensor(values, [1, values.length], "i32");
  const places = Array.from({ length: Math.min(16, model.shape.vocab_size) }, (_, i) => i);
  return mergeAdapter(model, () => model.logits(model.hidden(row(places), { positions: row(places) })));
}
