import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { withDevice } from "../../core/device.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { ReferenceDevice } from "../../core/reference_device.ts";
import { writeGgufModel } from "../../models/formats/gguf_model.ts";
import { loadModel, readTensors, saveModel } from "../../models/formats/hf_directory.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { Tokenizer, trainBpe } from "../../tokenizer/index.ts";
import { prepareGeneration } from "./models.ts";
import type { Row } from "./row.ts";

/** Extents of stories260K (Karpathy's llama2.c): the smallest model that writes stories. */
const sizes = {
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 5,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 8,
  vocab_size: 512,
  max_position_embeddings: 512,
};
/** Tokens of an answer. */
export const answerLength = 200;
const { hidden_size: d, intermediate_size: i, num_hidden_layers: layers, vocab_size } = sizes;
/** Weights that a token is multiplied by. */
export const weightsRead = layers * (2 * d * d + 2 * d * 32 + 3 * d * i) + d * vocab_size;
/** The same model for peers: a GGUF file, and beside it a folder for transformers. */
const ggufPath = path.join(tmpdir(), "kiln-bench", "model.gguf");
const folderPath = path.join(tmpdir(), "kiln-bench", "model");

/** The folder of stories260K if it is beside the project, else that of a model of its size with random weights. */
export async function streamsModel(): Promise<string> {
  const real = path.join(packageRoot, "../shared/data/models/stories260K-hf");
  if (existsSync(real)) return real;
  const folder = path.join(tmpdir(), "kiln-bench", "stories260K-random");
  if (existsSync(folder)) return folder;
  const model = withDevice(new ReferenceDevice(), () => new LlamaForCausalLM(tinyllmConfig(sizes)).init(1));
  const special_tokens = ["<|endoftext|>"];
  const tokenizer = new Tokenizer(trainBpe(["Once upon a time"], { vocab_size: 262, special_tokens }));
  await saveModel(folder, model, tokenizer);
  return folder;
}

/** `count` greedy answers at once by the server's engine, on the device that is open. */
export async function prepareStreams(count: number, prompt: number, tokens: number) {
  const { model, tokenizer } = await loadModel(await streamsModel());
  return { model, tokenizer, ...prepareGeneration(model, count, prompt, tokens) };
}

/** `count` answers at once to prompts of `prompt` tokens, beside llama.cpp on one thread and transformers' `generate`. */
function generationRow(name: string, count: number, prompt: number, tokens: number): Row {
  return {
    name: `stories260K, ${name}`,
    flops: 2 * weightsRead * count * (prompt - 1 + tokens),
    bytes: 4 * weightsRead * tokens,
    unit: "GB/s",
    tokens: count * tokens,
    peer: { op: "streams", sizes: [count, prompt, tokens], file: ggufPath },
    prepare: async () => {
      const { model, tokenizer, ...prepared } = await prepareStreams(count, prompt, tokens);
      // kiln goes before its peers: they find the files.
      const tensors = await readTensors(model.namedParameters());
      await writeGgufModel(ggufPath, model, tensors, tokenizer, { dtype: "f32", name: "kiln bench" });
      await saveModel(folderPath, model, tokenizer);
      return prepared;
    },
  };
}

/** What a small model's server does: answers of 200 tokens for `count` clients at once. */
export function streamsRow(count: number): Row {
  return generationRow(`${count} stream${count > 1 ? "s" : ""}`, count, 1, answerLength);
}

/** The time until the first token of an answer to `prompt` tokens that no cache holds. */
export function firstTokenRow(prompt: number): Row {
  return generationRow(`first token after ${prompt}`, 1, prompt, 1);
}
