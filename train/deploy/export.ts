import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteDirectory, atomicWriteFile } from "../../core/platform/files.ts";
import { type GgufDtype, writeGgufModel } from "../../models/formats/gguf_model.ts";
import { loadModel, readTensors, writeModelFiles } from "../../models/formats/hf_directory.ts";
import { type Comparison, compareExport, type Original } from "./compare.ts";
import { modelfile } from "./modelfile.ts";

/** What `kiln export` makes of a model. */
interface Target {
  description: string;
  dtypes: readonly GgufDtype[];
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
} satisfies Record<string, Target>;

export type ExportTarget = keyof typeof exportTargets;

function writeFile(
  path: string,
  { original, dtype, name }: Pick<Writing, "original" | "dtype" | "name">,
): Promise<void> {
  return writeGgufModel(path, original.model, original.tensors, original.tokenizer, { dtype, name });
}

export interface ExportOptions {
  to: ExportTarget;
  dtype: GgufDtype;
  /** The folder or file to write; it must not exist. */
  out: string;
  /** For `hf`: weights of more bytes go to several files. */
  maxShardBytes: number;
}

/**
 * Writes the model at `path` for another program, loads that again and compares it (see `compareExport`): what is not equal
 * is not kept. Throws a one-line KilnError for a type that the target lacks, an `out` that exists, a model or tokenizer that
 * the format cannot hold. The model is on the device twice for the comparison.
 */
export async function exportModel(
  path: string,
  { to, dtype, out, maxShardBytes }: ExportOptions,
): Promise<Comparison> {
  const target: Target = exportTargets[to];
  if (!target.dtypes.includes(dtype)) {
    throw new KilnError(
      `--to ${to} holds ${target.dtypes.join(" or ")}, not ${dtype}; use --to gguf for it`,
      { exitCode: 2 },
    );
  }
  if (existsSync(out)) throw new KilnError(`${out} exists; remove it or give another --out`, { exitCode: 2 });
  const { model, tokenizer } = await loadModel(path);
  const original = { model, tokenizer, tensors: await readTensors(model.namedParameters()) };
  let comparison: Comparison | null = null;
  await target.write({
    ...{ out, dtype, original, maxShardBytes },
    name: basename(out).replace(/\.gguf$/i, ""),
    check: async (written) => {
      comparison = await compareExport(original, written, dtype);
    },
  });
  return comparison!;
}
