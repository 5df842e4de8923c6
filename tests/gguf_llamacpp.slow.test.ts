import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { tensor } from "../core/tensor.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel, decoderConfig, parseModelConfig } from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import { writeGgufAdapter } from "../models/formats/gguf_adapter.ts";
import { type GgufDtype, writeGgufModel } from "../models/formats/gguf_model.ts";
import { loadModel, readTensors } from "../models/formats/hf_directory.ts";
import { type AdapterConfig, addAdapter, mergeAdapter, useAdapter } from "../models/index.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { normalInit } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const entry = join(root, "node_modules/node-llama-cpp/dist/index.js");
const hasPeer = existsSync(entry) && existsSync(join(root, "node_modules/@node-llama-cpp/linux-x64"));
const stories = fileURLToPath(new URL("../../shared/data/models/stories260K-hf", import.meta.url));

interface LlamaCpp {
  LlamaLogLevel: { error: string };
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<TheirModel> }>;
}
interface TheirModel {
  tokenize(text: string, specialTokens: boolean): number[];
  tokens: { bos: number; eos: number; shouldPrependBosToken: boolean };
  createContext(options: object): Promise<{ getSequence(): TheirSequence; dispose(): Promise<void> }>;
}
interface TheirSequence {
  evaluate(tokens: number[], options: object): AsyncIterable<number>;
  controlledEvaluate(input: [number, object][]): Promise<{ next: { probabilities: Map<number, number> } }[]>;
}

const folder = mkdtempSync(join(tmpdir(), "kiln-gguf-"));
let load: (path: string) => Promise<TheirModel>;

beforeAll(async () => {
  await openDevice();
  if (!hasPeer) return;
  const { getLlama, LlamaLogLevel } = (await import(pathToFileURL(entry).href)) as LlamaCpp;
  const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
  load = (modelPath) => llama.loadModel({ modelPath, gpuLayers: 0 });
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

const trained = () =>
  new Tokenizer(
    trainBpe(storyCorpus({ seed: 1, stories: 100 }), {
      vocab_size: 500,
      special_tokens: ["<|begin|>", "<|endoftext|>"],
    }),
  );
const ends = { bos_token_id: 0, eos_token_id: 1 };
const shared = { vocab_size: 512, initializer_range: 0.15, ...ends };
const llama = {
  ...shared,
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 3,
  num_attention_heads: 8,
  num_key_value_heads: 2,
  max_position_embeddings: 256,
};
const llama3 = {
  rope_type: "llama3",
  rope_theta: 500000,
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
};

/** Models that llama.cpp must compute as kiln does. */
const models: Record<string, Record<string, unknown>> = {
  "llama with grouped heads": llama,
  "llama tied, with biases, heads wider than its share": {
    ...llama,
    tie_word_embeddings: true,
    attention_bias: true,
    mlp_bias: true,
    head_dim: 16,
  },
  "llama with linear positions": {
    ...llama,
    rope_parameters: { rope_type: "linear", rope_theta: 10000, factor: 4 },
  },
  "llama 3": { ...llama, rope_parameters: { ...llama3, original_max_position_embeddings: 64 } },
  gpt2: { ...shared, model_type: "gpt2", n_positions: 256, n_embd: 64, n_layer: 3, n_head: 4 },
};

async function made(name: string): Promise<{ model: CausalLM; tokenizer: Tokenizer }> {
  if (name === "stories260K") return loadModel(stories);
  const model = createModel(decoderConfig(parseModelConfig(models[name]), name)).init(5);
  return { model, tokenizer: trained() };
}

async function write(model: CausalLM, tokenizer: Tokenizer, dtype: GgufDtype): Promise<string> {
  const path = join(folder, `${dtype}.gguf`);
  await writeGgufModel(path, model, await readTensors(model.namedParameters()), tokenizer, {
    dtype,
    name: "test",
  });
  return path;
}

const blockTable = Array.from({ length: 16 }, (_, i) => i);
const sizes = { numBlocks: 16, blockSize: 16, maxSequences: 1, maxBlocksPerSequence: 16 };

/** The likeliest continuation of a prompt by kiln. */
async function greedy(model: CausalLM, prompt: readonly number[], count: number): Promise<number[]> {
  const decoder = new PagedDecoder(model, sizes);
  const ids = [...prompt];
  for (let start = 0; ids.length < prompt.length + count; ) {
    const tokens = ids.slice(start);
    const [next] = await decoder.greedy([{ tokens, start, blockTable, rows: [tokens.length - 1] }]);
    start = ids.length;
    ids.push(Number(next));
  }
  decoder.close();
  return ids.slice(prompt.length);
}

async function theirGreedy(path: string, prompt: number[], count: number, lora?: string): Promise<number[]> {
  const context = await (await load(path)).createContext({
    contextSize: 256,
    threads: 1,
    ...(lora && { lora }),
  });
  const found: number[] = [];
  for await (const token of context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (found.push(token) === count) break;
  }
  await context.dispose();
  return found;
}

const names = [...Object.keys(models), ...(existsSync(stories) ? ["stories260K"] : [])];

describe.runIf(hasPeer).each(names)("%s in llama.cpp (node-llama-cpp, Linux x64)", (name) => {
  const texts = [
    ...storyCorpus({ seed: 9, stories: 20 }),
    "It's 12 o'clock: they're late!\n\n\tNaïve 🦙, 日本  x",
    "  two spaces",
    "",
    "<|endoftext|></s>",
  ];

  it("has the same token ids and the same 24 greedy tokens in f32", async () => {
    const { model, tokenizer } = await made(name);
    const path = await write(model, tokenizer, "f32");
    const theirs = await load(path);
    const ours = await tokenizer.encodeBatch(texts, { addSpecialTokens: false, parseSpecialTokens: false });
    expect(texts.map((text) => [...theirs.tokenize(text, false)])).toEqual(ours);
    const special = await tokenizer.encodeBatch(texts, { addSpecialTokens: false });
    expect(texts.map((text) => [...theirs.tokenize(text, true)])).toEqual(special);
    expect(theirs.tokens).toMatchObject({ bos: tokenizer.bosId, eos: tokenizer.eosId });
    expect(theirs.tokens.shouldPrependBosToken).toBe(tokenizer.addsBos);
    const prompt = await tokenizer.encode("Once upon a time");
    expect(await theirGreedy(path, prompt, 24)).toEqual(await greedy(model, prompt, 24));
  });

  // llama.cpp rounds activations to f16 or to q8_0 before a product, which kiln does not: differences of log-probabilities
  // of any token, measured up to 0.012, 0.14 and 0.23 (stories260K, in tokens that are never chosen).
  const dtypes = [
    ["f16", 0.02],
    ["q8_0", 0.2],
    ["q4_0", 0.3],
  ] as const;
  it.each(dtypes)("computes %s as kiln does with the same file", async (dtype, tolerance) => {
    const { model, tokenizer } = await made(name);
    const path = await write(model, tokenizer, dtype);
    const { model: again } = await loadModel(path);
    const prompt = await tokenizer.encode("Once upon a time");
    const context = await (await load(path)).createContext({ contextSize: 256, threads: 1 });
    const wanted = [prompt.at(-1)!, { generateNext: { probabilities: true } }] as [number, object];
    const before = prompt.slice(0, -1).map((token) => [token, {}] as [number, object]);
    const output = await context.getSequence().controlledEvaluate([...before, wanted]);
    const theirs = output.filter((step) => step?.next.probabilities).at(-1)!.next.probabilities;
    const decoder = new PagedDecoder(again, sizes);
    const [[logits]] = await decoder.forward([
      { tokens: prompt, start: 0, blockTable, rows: [prompt.length - 1] },
    ]);
    decoder.close();
    const most = logits.reduce((a, b) => Math.max(a, b));
    const sum = logits.reduce((total, value) => total + Math.exp(value - most), 0);
    const errors = [...theirs].map(([id, p]) => Math.abs(Math.log(p) - (logits[id] - most - Math.log(sum))));
    expect(Math.max(...errors)).toBeLessThan(tolerance);
    expect(theirs.size).toBe(model.shape.vocab_size);
    await context.dispose();
  });
});

const linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const adapters: [string, keyof typeof models, Partial<AdapterConfig>][] = [
  ["of every product of a llama with grouped heads", "llama with grouped heads", { target_modules: linears }],
  [
    "rank-stabilised, of embedding and head too, with an alpha of its own for q",
    "llama with grouped heads",
    {
      target_modules: [...linears, "embed_tokens", "lm_head"],
      use_rslora: true,
      alpha_pattern: { q_proj: 2 },
    },
  ],
  ["of a gpt2", "gpt2", { target_modules: ["c_attn", "c_proj", "c_fc"] }],
];

describe.runIf(hasPeer)("an adapter in llama.cpp (node-llama-cpp, Linux x64)", () => {
  it.each(adapters)(
    "%s gives the same 24 greedy tokens applied there, applied here, and merged",
    async (_, base, config) => {
      const { model, tokenizer } = await made(base);
      const path = await write(model, tokenizer, "f32");
      const prompt = await tokenizer.encode("Once upon a time");
      const before = await greedy(model, prompt, 24);
      const adapter = addAdapter(model, { r: 4, lora_alpha: 6, ...config });
      for (const [name, parameter] of adapter.parameters()) normalInit(parameter, 0.2, 1, name);
      useAdapter(model, "default");
      const applied = await greedy(model, prompt, 24);
      expect(applied).not.toEqual(before);
      const lora = join(folder, "lora.gguf");
      await writeGgufAdapter(lora, model, { dtype: "f32", name: "test" });
      expect(await theirGreedy(path, prompt, 24, lora)).toEqual(applied);
      expect(await theirGreedy(path, prompt, 24)).toEqual(before);
      const row = (values: number[]) => tensor(values, [1, values.length], "i32");
      await mergeAdapter(model, () =>
        model.logits(model.hidden(row(prompt), { positions: row(prompt.map((_, i) => i)) })),
      );
      expect(await greedy(model, prompt, 24)).toEqual(applied);
      expect(await theirGreedy(await write(model, tokenizer, "f32"), prompt, 24)).toEqual(applied);
    },
  );
});
