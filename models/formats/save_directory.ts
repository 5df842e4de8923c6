import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteDirectory, writeJson } from "../../core/platform/files.ts";
import type { Tensor } from "../../core/tensor.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { Model } from "../model.ts";
import { encodeBlocks } from "./gguf_blocks.ts";
import { type HostTensor, toFloat32, writeModelWeights } from "./safetensors.ts";

/**
 * Tensors' values in host memory, to be saved: u32 as they are, others as float32. Throws a KilnError (`values_not_finite`) that names the first
 * tensor with a NaN or an infinity, since such a state is of no use.
 */
export async function readTensors(tensors: ReadonlyMap<string, Tensor>): Promise<Map<string, HostTensor>> {
  const out = new Map<string, HostTensor>();
  for (const [name, tensor] of tensors) {
    const shape = [...tensor.shape];
    const read = await tensor.data();
    if (read instanceof Uint32Array) {
      out.set(name, { dtype: "U32", shape, bytes: new Uint8Array(read.slice().buffer) });
      continue;
    }
    const values = Float32Array.from(read);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      throw new KilnError(`${name} holds ${values[bad]} at index ${bad}; it is not saved`, {
        code: "values_not_finite",
      });
    }
    out.set(name, { dtype: "F32", shape, bytes: new Uint8Array(values.buffer) });
  }
  return out;
}

function toHalves(tensor: HostTensor, name: string): HostTensor {
  return { dtype: "F16", shape: tensor.shape, bytes: encodeBlocks("F16", toFloat32(tensor), name) };
}

/** Writes a Hugging Face directory that transformers, vLLM and llama.cpp's converter load, all or nothing. */
export async function saveModel(directory: string, model: Model<never>, tokenizer: Tokenizer): Promise<void> {
  await atomicWriteDirectory(directory, (temporary) => writeModelFiles(temporary, model, tokenizer));
}

/** How weights are written: in f16 instead of f32, and in files of at most so many bytes. */
export interface WeightsFormat {
  halves?: boolean;
  maxShardBytes?: number;
}

/** Writes the files of a model directory into a directory that exists. */
export async function writeModelFiles(
  directory: string,
  model: Model<never>,
  tokenizer: Tokenizer,
  { halves = false, maxShardBytes = Number.POSITIVE_INFINITY }: WeightsFormat = {},
): Promise<void> {
  const tensors = await readTensors(model.stateDict());
  if (halves) for (const [name, tensor] of tensors) tensors.set(name, toHalves(tensor, name));
  await writeModelWeights(directory, tensors, maxShardBytes);
  const dtypes = halves ? { dtype: "float16", torch_dtype: "float16" } : {};
  await writeJson(join(directory, "config.json"), { ...model.toHfConfig(), ...dtypes });
  for (const [name, value] of Object.entries(model.extraFiles()))
    await writeJson(join(directory, name), value);
  tokenizer.save(directory);
}
