import { KilnError } from "../../core/errors.ts";
import { type Tokenizer, tokenizerFromGguf, tokenizerToGguf } from "../../tokenizer/index.ts";
import type { Model } from "../model.ts";
import { type Gguf, type GgufTensor, writeGguf } from "./gguf.ts";
import { encodeBlocks, ggufValues } from "./gguf_blocks.ts";
import { type GgufType, type GgufValue, tensorTypes } from "./gguf_header.ts";
import { ggufArchitectures } from "./gguf_names.ts";
import { type HostTensor, toFloat32 } from "./safetensors.ts";
import { quoted } from "./safetensors_header.ts";

/** Types of weights that a GGUF file can be written in, and `general.file_type` of each. */
export const ggufDtypes = { f32: 0, f16: 1, q4_0: 2, q8_0: 7 } as const;
export type GgufDtype = keyof typeof ggufDtypes;

/** The weights and the tokenizer of a GGUF file, under the names that a Hugging Face directory has. */
export function ggufContent(
  gguf: Gguf,
  config: { readonly model_type: string },
  file: string,
): { weights: Map<string, HostTensor>; tokenizer: Tokenizer } {
  return { weights: readWeights(gguf, config, file), tokenizer: tokenizerFromGguf(gguf.metadata, file) };
}

/** Tensors by their Hugging Face names and in that layout. Each is read when its `bytes` are asked for. */
function readWeights(
  { tensors }: Gguf,
  config: { readonly model_type: string },
  file: string,
): Map<string, HostTensor> {
  const { names, extra, stored } = layoutOf(config);
  const original = new Map(Object.entries(names).map(([hf, gguf]) => [gguf, hf]));
  const weights = new Map<string, HostTensor>();
  for (const [name, tensor] of tensors) {
    if (Object.hasOwn(extra, name)) continue;
    const { stem, suffix, layer } = split(name);
    const hf = original.get(stem);
    if (hf === undefined) throw unplaced(file, name);
    weights.set(`${hf.replace("N", layer)}${suffix}`, fromGguf(tensor, stored(hf)));
  }
  return weights;
}

function unplaced(file: string, name: string): KilnError {
  return new KilnError(
    `${file}: it has the tensor ${quoted(name)}, for which kiln's model has no place; use the model's folder in Hugging Face layout`,
    { code: "gguf_unsupported" },
  );
}

/** How a tensor is stored otherwise than in a Hugging Face checkpoint. */
export interface Stored {
  /** Columns become rows. */
  transposed?: boolean;
  /** Rows of each of so many heads change places. */
  heads?: number;
}

/** Throws a KilnError for an architecture that llama.cpp lacks, or kiln's writer. */
export function layoutOf(config: { readonly model_type: string }) {
  if (!Object.hasOwn(ggufArchitectures, config.model_type)) {
    const known = Object.keys(ggufArchitectures).join(", ");
    throw new KilnError(
      `a ${config.model_type} cannot be written to a GGUF file, ${known} can; export it with --to hf instead`,
    );
  }
  const { names, transposed, rotated, precise, extra, metadata } = ggufArchitectures[config.model_type];
  const heads: Record<string, number> = rotated(config as never);
  const stored = (stem: string): Stored => ({
    ...(transposed.includes(stem) ? { transposed: true } : {}),
    ...(Object.hasOwn(heads, stem) ? { heads: heads[stem] } : {}),
  });
  return { names, precise, stored, extra: extra(config as never), metadata: metadata(config as never) };
}

/** A name as `a.N.b`, its ending and its layer. */
export function split(name: string): { stem: string; suffix: string; layer: string } {
  const suffix = /\.(weight|bias)$/.exec(name)?.[0] ?? "";
  const layer = /\.(\d+)\./.exec(name)?.[1] ?? "";
  return { stem: name.slice(0, name.length - suffix.length).replace(`.${layer}.`, ".N."), suffix, layer };
}

export function fromGguf(tensor: GgufTensor, { transposed, heads }: Stored): HostTensor {
  const { type, shape } = tensor;
  const isMatrix = shape.length === 2;
  const quantized = type === "Q8_0" || type === "Q4_0";
  const turned = transposed && isMatrix;
  return {
    dtype: quantized || turned ? "F32" : type,
    shape: turned ? [shape[1], shape[0]] : [...shape],
    get bytes() {
      if (quantized || turned) {
        const values = ggufValues(tensor);
        return bytesOf(
          turned ? transpose(values, shape[0]) : heads ? rows(values, heads, shape[0], halves) : values,
        );
      }
      const stored = tensor.bytes();
      return heads ? rows(stored, heads, shape[0], halves) : stored;
    },
  };
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** [rows, columns] to [columns, rows]. */
function transpose(values: Float32Array, height: number): Float32Array {
  const width = values.length / height;
  const out = new Float32Array(values.length);
  for (let i = 0; i < height; i++)
    for (let j = 0; j < width; j++) out[j * height + i] = values[i * width + j];
  return out;
}

/**
 * llama.cpp rotates neighbouring components of a head, Hugging Face a component of the first half with one of the second:
 * the rows of queries and keys change places. The row of the source for each place in a head of `dim` rows:
 */
const neighbours = (place: number, dim: number) => (place % 2) * (dim / 2) + Math.floor(place / 2);
const halves = (place: number, dim: number) => (place % (dim / 2)) * 2 + Math.floor(place / (dim / 2));

/** `count` rows of values or bytes, reordered within each head. */
function rows<T extends Float32Array | Uint8Array>(
  data: T,
  heads: number,
  count: number,
  from: typeof halves,
): T {
  const width = data.length / count;
  const dim = count / heads;
  const out = data.slice() as T;
  for (let row = 0; row < count; row++) {
    const source = row - (row % dim) + from(row % dim, dim);
    out.set(data.subarray(source * width, (source + 1) * width), row * width);
  }
  return out;
}

/** How a GGUF file is written. */
export interface GgufWriting {
  dtype: GgufDtype;
  /** `general.name`. */
  name: string;
}

/**
 * Writes a model for llama.cpp and Ollama: its weights (`tensors` by Hugging Face's names), its tokenizer and its chat
 * template. Norms, biases and tables of positions stay in f32; a matrix whose rows are no whole blocks is f16; and with
 * q4_0 embedding and head are q8_0, since they lose the most (llama-quantize keeps them finer, too).
 * Errors: an architecture or tokenizer that llama.cpp lacks, a number that the type cannot hold.
 */
export async function writeGgufModel(
  path: string,
  model: SavedModel,
  tensors: ReadonlyMap<string, HostTensor>,
  tokenizer: Tokenizer,
  writing: GgufWriting,
): Promise<void> {
  await writeGguf(path, modelGguf(model, tensors, tokenizer, writing));
}

type SavedModel = Pick<Model<never>, "config" | "shape">;

/** The content of the file; a tensor is encoded when it is written. */
export function modelGguf(
  { config, shape }: SavedModel,
  tensors: ReadonlyMap<string, HostTensor>,
  tokenizer: Tokenizer,
  { dtype, name }: GgufWriting,
): Gguf {
  const { model_type: architecture } = config;
  const { vocab_size } = shape;
  const layout = layoutOf(config);
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: architecture }],
    ["general.name", { type: "string", value: name }],
    ["general.file_type", { type: "u32", value: ggufDtypes[dtype] }],
    ...(dtype.startsWith("q") ? [["general.quantization_version", { type: "u32", value: 2 }] as const] : []),
    ...layout.metadata.map(([key, value]) => [`${architecture}.${key}`, value] as const),
    [`${architecture}.vocab_size`, { type: "u32", value: vocab_size }],
    ...tokenizerToGguf(tokenizer, vocab_size),
  ]);
  const written = new Map<string, GgufTensor>();
  for (const [key, tensor] of tensors) {
    const { stem, suffix, layer } = split(key);
    if (!Object.hasOwn(layout.names, stem)) {
      throw new KilnError(
        `llama.cpp's ${architecture} has no place for the tensor ${key}; export the model with --to hf instead`,
      );
    }
    const stored = layout.stored(stem);
    const extents = stored.transposed ? tensor.shape.toReversed() : tensor.shape;
    const own = layout.names[stem];
    const type = layout.precise.includes(stem)
      ? "F32"
      : typeOf(dtype, extents, own === "token_embd" || own === "output");
    written.set(`${own.replace("N", layer)}${suffix}`, {
      type,
      shape: extents,
      bytes: () => encodeBlocks(type, toGguf(tensor, stored), key),
    });
  }
  for (const [key, values] of Object.entries(layout.extra)) {
    written.set(key, { type: "F32", shape: [values.length], bytes: () => bytesOf(values) });
  }
  return { metadata, tensors: written };
}

function typeOf(dtype: GgufDtype, shape: readonly number[], ends: boolean): Exclude<GgufType, "BF16"> {
  if (shape.length === 1 || dtype === "f32") return "F32";
  if (dtype === "f16" || shape.at(-1)! % tensorTypes.Q8_0.block !== 0) return "F16";
  return dtype === "q8_0" || ends ? "Q8_0" : "Q4_0";
}

export function toGguf(tensor: HostTensor, { transposed, heads }: Stored): Float32Array {
  const values = toFloat32(tensor);
  if (heads) return rows(values, heads, tensor.shape[0], neighbours);
  return transposed && tensor.shape.length === 2 ? transpose(values, tensor.shape[0]) : values;
}
