import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel, decoderConfig, parseModelConfig } from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import { type GgufTensor, readGguf, writeGguf } from "../models/formats/gguf.ts";
import type { GgufValue } from "../models/formats/gguf_header.ts";
import { ggufDtypes, modelGguf, writeGgufModel } from "../models/formats/gguf_model.ts";
import { loadModel, readTensors } from "../models/formats/hf_directory.ts";
import { toFloat32 } from "../models/formats/safetensors.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { Tokenizer, tokenizerFromGguf, tokenizerToGguf, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

const data = join(import.meta.dirname, "../../shared/data");
const hasData = existsSync(data);
const folder = mkdtempSync(join(tmpdir(), "kiln-gguf-"));
beforeAll(() => openDevice());
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

const f32 = (values: number[]): GgufTensor => ({
  type: "F32",
  shape: [values.length],
  bytes: () => new Uint8Array(Float32Array.from(values).buffer),
});

const tokenizer = new Tokenizer(
  trainBpe(storyCorpus({ seed: 1, stories: 30 }), {
    vocab_size: 300,
    special_tokens: ["<|begin|>", "<|endoftext|>", "<|pad|>"],
  }),
  {
    tokenizer_config: { pad_token: "<|pad|>" },
    chat_template: "{% generation %}{{ messages }}{%- endgeneration -%}",
  },
);
const special = { bos_token_id: 0, eos_token_id: 1, pad_token_id: 2 };
const llama = {
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  initializer_range: 0.3,
  ...special,
};
const gpt2 = {
  model_type: "gpt2",
  vocab_size: 320,
  n_positions: 64,
  n_embd: 32,
  n_layer: 2,
  n_head: 4,
  initializer_range: 0.3,
  ...special,
};
const llama3 = {
  rope_type: "llama3",
  rope_theta: 500000,
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
};
const configs: [string, Record<string, unknown>][] = [
  ["a Llama with grouped heads", llama],
  [
    "a tied Llama with biases and wide heads",
    { ...llama, tie_word_embeddings: true, attention_bias: true, mlp_bias: true, head_dim: 32 },
  ],
  [
    "a Llama whose positions are stretched",
    { ...llama, rope_parameters: { rope_type: "linear", rope_theta: 1e4, factor: 2 } },
  ],
  ["a Llama 3", { ...llama, rope_parameters: { ...llama3, original_max_position_embeddings: 8192 } }],
  ["a GPT-2", gpt2],
  ["a GPT-2 with a head of its own", { ...gpt2, tie_word_embeddings: false, n_inner: 64 }],
];

function randomModel(config: Record<string, unknown>) {
  return createModel(decoderConfig(parseModelConfig(config), "a model")).init(3);
}

describe.each(configs)("%s", (_, config) => {
  let model: CausalLM;
  beforeAll(() => {
    model = randomModel(config);
  });
  const path = join(folder, "model.gguf");
  const write = async (dtype: keyof typeof ggufDtypes) => {
    const tensors = await readTensors(model.namedParameters());
    await writeGgufModel(path, model, tensors, tokenizer, { dtype, name: "test" });
    return tensors;
  };

  it("comes back from f32 as it was: config, weights, tokenizer", async () => {
    const tensors = await write("f32");
    const again = await loadModel(path);
    const { dropoutRates: _rates, ...own } = model.toHfConfig();
    const dropouts = Object.keys(own).filter((key) => /dropout|pdrop|initializer_range/.test(key));
    for (const key of dropouts) delete own[key];
    expect(again.model.toHfConfig()).toMatchObject({
      ...own,
      ...("n_inner" in own ? { n_inner: own.n_inner ?? 128 } : {}),
    });
    const loaded = await readTensors(again.model.namedParameters());
    expect([...loaded.keys()]).toEqual([...tensors.keys()]);
    for (const [name, { bytes }] of loaded)
      expect(Buffer.compare(bytes, tensors.get(name)!.bytes), name).toBe(0);
    expect(again.tokenizer.chatTemplate).toBe("{{ messages }}");
  });

  it.each(["f16", "q8_0", "q4_0"] as const)("comes back from %s within its steps", async (dtype) => {
    const tensors = await write(dtype);
    const { metadata, tensors: stored } = readGguf(path);
    expect(metadata.get("general.file_type")!.value).toBe(ggufDtypes[dtype]);
    const types = new Set(
      [...stored.values()].filter(({ shape }) => shape.length > 1).map(({ type }) => type),
    );
    expect(types).toContain(dtype.toUpperCase());
    const { model: again } = await loadModel(path);
    for (const [name, tensor] of await readTensors(again.namedParameters())) {
      const [ours, theirs] = [toFloat32(tensors.get(name)!), toFloat32(tensor)];
      // Half a step of the largest block, and the rounding of its scale.
      const largest = ours.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const step = { f16: 2 ** -11, q8_0: 0.5 / 127 + 2 ** -11, q4_0: 1 / 8 + 2 ** -11 }[dtype];
      const worst = ours.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i])), 0);
      expect(worst, name).toBeLessThanOrEqual(tensor.shape.length === 1 ? 0 : largest * step);
    }
  });
});

it.each(["f32", "q8_0"] as const)("@huggingface/gguf reads %s files as they were written", async (dtype) => {
  const model = randomModel({
    ...llama,
    rope_parameters: { ...llama3, original_max_position_embeddings: 8192 },
  });
  const path = join(folder, "peer.gguf");
  const tensors = await readTensors(model.namedParameters());
  await writeGgufModel(path, model, tensors, tokenizer, { dtype, name: "peer" });
  const ours = readGguf(path);
  const theirs = await gguf(path, { allowLocalFile: true, computeParametersCount: true });
  const { version, tensor_count, kv_count, ...metadata } = theirs.metadata as Record<string, unknown>;
  expect([version, tensor_count, kv_count].map(Number)).toEqual([3, ours.tensors.size, ours.metadata.size]);
  expect(metadata).toEqual(Object.fromEntries([...ours.metadata].map(([key, { value }]) => [key, value])));
  expect(theirs.parameterCount).toBe(model.numParameters + 8);
  const start = Number(theirs.tensorDataOffset);
  for (const { name, shape, dtype: code, offset } of theirs.tensorInfos) {
    const { type, shape: extents, bytes } = ours.tensors.get(name)!;
    expect([GGMLQuantizationType[code], shape.map(Number).reverse()]).toEqual([type, extents]);
    const file = readFileSync(path).subarray(start + Number(offset), start + Number(offset) + bytes().length);
    expect(Buffer.compare(file, bytes()), name).toBe(0);
  }
});

describe("a model that does not fit", () => {
  const content = async () => {
    const model = randomModel(llama);
    return modelGguf(model, await readTensors(model.namedParameters()), tokenizer, {
      dtype: "f32",
      name: "x",
    });
  };
  const load = async (
    change: (metadata: Map<string, GgufValue>, tensors: Map<string, GgufTensor>) => void,
  ) => {
    const { metadata, tensors } = await content();
    const changed = { metadata: new Map(metadata), tensors: new Map(tensors) };
    change(changed.metadata, changed.tensors);
    const path = join(folder, "changed.gguf");
    await writeGguf(path, changed);
    return loadModel(path);
  };

  it.each<[string, Parameters<typeof load>[0], RegExp]>([
    [
      "another architecture",
      (m) => m.set("general.architecture", { type: "string", value: "mamba" }),
      /architecture is "mamba", and kiln reads llama, gpt2/,
    ],
    [
      "a missing size",
      (m) => m.delete("llama.block_count"),
      /changed\.gguf: metadata llama\.block_count is missing; use the model's folder/,
    ],
    [
      "a size of text",
      (m) => m.set("llama.block_count", { type: "string", value: "2" }),
      /llama\.block_count is not a number/,
    ],
    [
      "layers that are not there",
      (m) => m.set("llama.block_count", { type: "u32", value: 2 ** 32 - 1 }),
      /tensor blk\.4294967294\.attn_norm\.weight is missing, the metadata says \[64\]/,
    ],
    [
      "a width that no tensor has",
      (m) => m.set("llama.feed_forward_length", { type: "u32", value: 2 ** 31 }),
      /changed\.gguf: tensor blk\.0\.ffn_up\.weight is \[96,64\], the metadata says \[2147483648,64\]/,
    ],
    [
      "heads that no tensor has",
      (m) => m.set("llama.attention.key_length", { type: "u32", value: 2 ** 31 }),
      /tensor blk\.0\.attn_q\.weight is \[64,64\], the metadata says \[8589934592,64\]/,
    ],
    [
      "sizes that differ by layer",
      (m) => m.set("llama.attention.head_count_kv", { type: "u32", value: [2, 4] }),
      /head_count_kv is another one in each layer/,
    ],
    [
      "another rotation",
      (m) => m.set("llama.rope.scaling.type", { type: "string", value: "yarn" }),
      /scaling\.type is "yarn"; kiln computes none and linear/,
    ],
    [
      "half of a head rotated",
      (m) => m.set("llama.rope.dimension_count", { type: "u32", value: 8 }),
      /8 of 16 components of a head are rotated/,
    ],
    ["experts", (m) => m.set("llama.expert_count", { type: "u32", value: 4 }), /mixture of experts/],
    [
      "no tensor",
      (_, t) => t.delete("blk.1.ffn_up.weight"),
      /changed\.gguf: the checkpoint has no tensor model\.layers\.1\.mlp\.up_proj\.weight/,
    ],
    [
      "a strange tensor",
      (_, t) => t.set("blk.1.ffn_gate_inp.weight", f32([1, 2])),
      /changed\.gguf: it has the tensor "blk\.1\.ffn_gate_inp\.weight", for which kiln/,
    ],
    [
      "divisors of another kind",
      (_, t) => t.set("rope_freqs.weight", f32([1, 2, 3, 4, 5, 6, 7, 8])),
      /divisors that are not those of Llama 3/,
    ],
    [
      "no tokenizer",
      (m) => m.delete("tokenizer.ggml.tokens"),
      /changed\.gguf: tokenizer\.ggml\.tokens is missing/,
    ],
    [
      "a tokenizer of another kind",
      (m) => m.set("tokenizer.ggml.model", { type: "string", value: "rwkv" }),
      /tokenizer\.ggml\.model is "rwkv"; kiln reads gpt2, llama, bert/,
    ],
    [
      "a split that kiln lacks",
      (m) => m.set("tokenizer.ggml.pre", { type: "string", value: "tekken" }),
      /tokenizer\.ggml\.pre is "tekken".*kiln does not know/,
    ],
    [
      "a token twice",
      (m) => (m.get("tokenizer.ggml.tokens")!.value as string[]).fill("a", 5, 7),
      /has 2 tokens twice/,
    ],
    [
      "an end outside",
      (m) => m.set("tokenizer.ggml.eos_token_id", { type: "u32", value: 320 }),
      /eos_token_id 320, but the vocabulary has 320 tokens/,
    ],
    [
      "a beginning outside",
      (m) => m.set("tokenizer.ggml.bos_token_id", { type: "u32", value: 320 }),
      /bos_token_id is 320, but there are 320 tokens/,
    ],
    [
      "types that are too few",
      (m) => (m.get("tokenizer.ggml.token_type")!.value as number[]).pop(),
      /token_type has 319 entries for 320 tokens/,
    ],
    [
      "a merge of no tokens",
      (m) => (m.get("tokenizer.ggml.merges")!.value as string[]).push("x yz"),
      /changed\.gguf: not a valid tokenizer/,
    ],
  ])("%s", async (_, change, message) => {
    await expect(load(change)).rejects.toThrow(message);
  });
});

describe("tokenizers", () => {
  const texts = ["Once upon a time", "  naïve 🦙\n\n12 345 it's", "<|endoftext|> and <|pad|>", ""];
  const again = (one: Tokenizer, size = one.vocabSize) =>
    tokenizerFromGguf(tokenizerToGguf(one, size), "x.gguf");

  it("a trained one comes back with its ids, its ends and its padding", async () => {
    const back = again(tokenizer, 320);
    expect(await back.encodeBatch(texts)).toEqual(await tokenizer.encodeBatch(texts));
    expect([back.bosId, back.eosIds, back.padId, back.addsBos, back.vocabSize]).toEqual([
      0,
      [1],
      2,
      true,
      300,
    ]);
    const ids = await tokenizer.encode(texts[1]);
    expect([back.decode(ids), back.decode([310])]).toEqual([texts[1], ""]);
  });

  it.each([
    ["a normalizer", { normalizer: { type: "Lowercase" } }, /changes text first \(Lowercase\)/],
    [
      "another split",
      {
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [{ type: "Punctuation" }, tokenizer.json.pre_tokenizer!],
        },
      },
      /splits text in a way/,
    ],
    [
      "a prefix",
      { pre_tokenizer: { ...tokenizer.json.pre_tokenizer!, add_prefix_space: true } },
      /puts a space before a text/,
    ],
    ["characters", { pre_tokenizer: null, decoder: { type: "Fuse" } }, /llama\.cpp knows byte-level BPE/],
    [
      "other tokens around",
      { post_processor: { type: "BertProcessing", sep: ["a", 1], cls: ["b", 2] } },
      /puts other tokens around a text/,
    ],
  ])("%s cannot be written, and the error says where to", (_, change, message) => {
    const other = new Tokenizer(
      { ...tokenizer.json, ...change },
      { tokenizer_config: { eos_token: "<|endoftext|>" } },
    );
    expect(() => tokenizerToGguf(other, 320)).toThrow(message);
    expect(() => tokenizerToGguf(other, 320)).toThrow(/--to hf instead$/);
  });

  it("one with more tokens than the model, or without an end, cannot be written", () => {
    expect(() => tokenizerToGguf(tokenizer, 299)).toThrow(
      /it has 300 tokens, but the model has rows for 299/,
    );
    const endless = new Tokenizer({ ...tokenizer.json, added_tokens: [] });
    expect(() => tokenizerToGguf(endless, 300)).toThrow(/names no token that ends a text/);
  });

  it.skipIf(!hasData).each(["gpt-2", "bert-bge"])(
    "%s encodes llama.cpp's cases as llama.cpp does (needs ../shared/data)",
    async (name) => {
      const path = join(data, `tokenizers/gguf/ggml-vocab-${name}.gguf`);
      const read = tokenizerFromGguf(readGguf(path).metadata, path);
      const cases = readFileSync(`${path}.inp`, "utf8").split("\n__ggml_vocab_test__\n");
      const expected = readFileSync(`${path}.out`, "utf8")
        .split("\n")
        .map((line) => line.match(/\d+/g)?.map(Number) ?? []);
      expect(cases.length).toBeGreaterThan(40);
      expect(await read.encodeBatch(cases, { addSpecialTokens: false })).toEqual(
        expected.slice(0, cases.length),
      );
      await expect(loadModel(path)).rejects.toThrow(
        name === "gpt-2" ? /it has no token_embd\.weight/ : /architecture is "bert"/,
      );
    },
  );

  it.skipIf(!hasData)("SentencePiece comes back with its ids (needs ../shared/data)", async () => {
    const one = Tokenizer.load(join(data, "models/stories260K-hf"));
    const stories = storyCorpus({ seed: 2, stories: 20 });
    const all = [...texts, ...stories];
    expect(await again(one).encodeBatch(all)).toEqual(await one.encodeBatch(all));
  });
});

it.skipIf(!hasData)(
  "a model of Ollama's repository gives the reference logits (needs ../shared/data)",
  async () => {
    const { model, tokenizer: own } = await loadModel(join(data, "models/llama-2-tiny-random.gguf"));
    const expected = JSON.parse(
      readFileSync(join(data, "reference/llama-2-tiny-random_reference.json"), "utf8"),
    );
    const decoder = new PagedDecoder(model, {
      numBlocks: 1,
      blockSize: 16,
      maxSequences: 1,
      maxBlocksPerSequence: 1,
    });
    const rows = expected.ids.map((_: number, i: number) => i);
    const [logits] = await decoder.forward([{ tokens: expected.ids, start: 0, blockTable: [0], rows }]);
    for (const [row, first] of expected.logits_first16.entries()) {
      for (const [i, value] of first.entries()) expect(Math.abs(logits[row][i] - value)).toBeLessThan(1e-5);
    }
    decoder.close();
    expect(await own.encode("Hello world")).toEqual([1, 15043, 3186]);
  },
);
