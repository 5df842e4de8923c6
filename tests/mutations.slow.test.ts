import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, vi } from "vitest";
import { setDevice, withDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { addAdapter, removeAdapter, useAdapter } from "../models/adapters.ts";
import { createModel, parseModelConfig } from "../models/architectures.ts";
import { type Gguf, ggufParts, parseGguf } from "../models/formats/gguf.ts";
import { parseGgufHeader } from "../models/formats/gguf_header.ts";
import { ggufContent, modelGguf } from "../models/formats/gguf_model.ts";
import { ggufConfig } from "../models/formats/gguf_names.ts";
import { loadWeights, readTensors } from "../models/formats/hf_directory.ts";
import { loadAdapter, saveAdapter } from "../models/formats/peft_directory.ts";
import {
  hostTensor,
  parseSafetensors,
  readSafetensors,
  serializeSafetensors,
} from "../models/formats/safetensors.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import {
  charTokenizer,
  Tokenizer,
  type TokenizerJson,
  tokenizerFromGguf,
  trainBpe,
} from "../tokenizer/index.ts";

/**
 * Damaged files: an error in one line that names the file, or a load that can be used; no crash, no read outside the file,
 * no allocation beyond its size. KILN_MUTANTS is their number for each kind of file, KILN_MUTANTS_FROM the first one's.
 */
const count = Number(process.env.KILN_MUTANTS ?? 3000);
const first = Number(process.env.KILN_MUTANTS_FROM ?? 0);
vi.setConfig({ testTimeout: 30 * 60_000 });

const folder = mkdtempSync(join(tmpdir(), "kiln-mutants-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Numbers below `n` from a seed (mulberry32). */
function random(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
  };
}

const numbers = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0xffffn,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 53n,
  2n ** 62n,
  2n ** 64n - 1n,
];

/** One to four changes of a file: most of them in its first `header` bytes, where lengths and places are. */
function mutant(file: Uint8Array, header: number, seed: number): Uint8Array {
  const below = random(seed);
  let bytes = Buffer.from(file);
  for (let left = 1 + below(4); left > 0 && bytes.length > 8; left--) {
    const at = below(8) > 0 ? below(Math.min(header, bytes.length)) : below(bytes.length);
    const length = 1 + below(16);
    const part = bytes.subarray(at, at + length);
    const change = below(7);
    if (change === 0) bytes[at] ^= 1 << below(8);
    else if (change === 1) bytes[at] = below(256);
    else if (change === 2) {
      const number = Buffer.alloc(8);
      number.writeBigUInt64LE(numbers[below(numbers.length)]);
      number.copy(bytes, at, 0, [1, 2, 4, 8][below(4)]);
    } else if (change === 3) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
    else if (change === 4) bytes = Buffer.concat([bytes.subarray(0, at), part, bytes.subarray(at)]);
    else if (change === 5) part.copy(bytes, below(bytes.length));
    else if (below(4) === 0) bytes = bytes.subarray(0, at);
  }
  return new Uint8Array(bytes);
}

/** A JSON text with a word, a number or a sign of it changed. */
function mutantText(text: string, seed: number): Uint8Array {
  const below = random(seed);
  if (below(3) === 0) return mutant(new TextEncoder().encode(text), text.length, seed);
  const parts = text.match(/"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.e+]*|[^"\d]+/g)!;
  for (let left = 1 + below(3); left > 0; left--) {
    const at = below(parts.length);
    const values = [
      "-1",
      "4294967296",
      "1e308",
      "0.5",
      "null",
      "true",
      '""',
      "[]",
      "{}",
      '"\\ud800"',
      parts[below(parts.length)],
    ];
    parts[at] = values[below(values.length)];
  }
  return new TextEncoder().encode(parts.join(""));
}

/** The format and one of its kinds, which share the mutants. */
interface Kind {
  name: string;
  kinds: number;
}

/**
 * Runs `load` on every mutant: some load, for a changed weight or word is a correct file; the others must be refused by
 * an error of one line.
 */
async function mutate(
  { name, kinds }: Kind,
  make: (seed: number) => Uint8Array,
  load: (bytes: Uint8Array) => unknown,
): Promise<void> {
  const share = Math.ceil(count / kinds);
  let loaded = 0;
  for (let seed = first; seed < first + share; seed++) {
    const bytes = make(seed);
    try {
      await load(bytes);
      loaded++;
    } catch (error) {
      const { message } = error as Error;
      if (!(error instanceof KilnError)) throw new Error(`${name} ${seed}: ${(error as Error).stack}`);
      expect(message, `${name} ${seed}`).toMatch(/^[^\n]{1,1000}$/);
    }
  }
  console.log(`${name}: ${share} from ${first} on, ${loaded} loaded, ${share - loaded} refused`);
  expect(loaded).toBeGreaterThan(0);
  expect(loaded).toBeLessThan(share);
}

it("F22: safetensors", async () => {
  const file = serializeSafetensors({
    "layer.weight": hostTensor("F32", [4, 3], new Float32Array(12).fill(1)),
    "layer.bias": hostTensor("F16", [3], Uint16Array.of(1, 2, 3)),
    ids: hostTensor("I64", [2], BigInt64Array.of(7n, -7n)),
    mask: hostTensor("BOOL", [2], Uint8Array.of(1, 0)),
  });
  const path = join(folder, "mutant.safetensors");
  await mutate(
    { name: "safetensors", kinds: 1 },
    (seed) => mutant(file, file.length - 80, seed),
    async (bytes) => {
      writeFileSync(path, bytes);
      const tensors = await readSafetensors(path);
      const sizes = [...tensors.values()].map((tensor) => tensor.bytes.length);
      expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThan(bytes.length);
      for (const [key, tensor] of parseSafetensors(bytes, path)) {
        expect(tensor.bytes.buffer).toBe(bytes.buffer);
        expect(Buffer.compare(tensor.bytes, tensors.get(key)!.bytes)).toBe(0);
      }
    },
  );
});

const special_tokens = ["<|begin|>", "<|endoftext|>"];
const bpe = trainBpe(["Once upon a time there was a small dog and a big dog."], {
  vocab_size: 270,
  special_tokens,
});

/** A SentencePiece vocabulary of 272: three control tokens, 256 bytes, and 13 pieces. */
const pieces = [
  "\u2581",
  "o",
  "n",
  "c",
  "e",
  "\u2581o",
  "on",
  "nc",
  "\u2581on",
  "ce",
  "\u2581once",
  "t",
  "a",
];
const bytes = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
);
const sentencePiece = tokenizerFromGguf(
  new Map<string, { value: unknown }>([
    ["tokenizer.ggml.model", { value: "llama" }],
    ["tokenizer.ggml.tokens", { value: ["<unk>", "<s>", "</s>", ...bytes, ...pieces] }],
    ["tokenizer.ggml.scores", { value: Array.from({ length: 272 }, (_, id) => -id) }],
    ["tokenizer.ggml.token_type", { value: [2, 3, 3, ...bytes.map(() => 6), ...pieces.map(() => 1)] }],
    ["tokenizer.ggml.bos_token_id", { value: 1 }],
    ["tokenizer.ggml.eos_token_id", { value: 2 }],
  ]),
  "pieces",
);

it.each([
  ["llama", new Tokenizer(bpe)],
  ["gpt2", new Tokenizer(bpe)],
  ["llama with SentencePiece", sentencePiece],
])("GGUF of a %s", async (kind, own) => {
  const type = kind.split(" ")[0];
  const shape = {
    vocab_size: 272,
    hidden_size: 32,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 4,
  };
  const llama = { ...shape, num_key_value_heads: 2, max_position_embeddings: 32 };
  const gpt2 = { vocab_size: 272, n_positions: 16, n_embd: 32, n_layer: 1, n_head: 4, n_inner: 32 };
  const config = parseModelConfig({
    model_type: type,
    ...(type === "llama" ? llama : gpt2),
    bos_token_id: 0,
    eos_token_id: 1,
  });
  const cpu = new ReferenceDevice();
  const model = withDevice(cpu, () => createModel(config).init(1));
  const gguf: Gguf = modelGguf(model, await readTensors(model.namedParameters()), own, {
    dtype: "q8_0",
    name: "x",
  });
  const file = Buffer.concat([...ggufParts(gguf)]);
  const data = [...gguf.tensors.values()].reduce(
    (sum, tensor) => sum + Math.ceil(tensor.bytes().length / 32) * 32,
    0,
  );
  const name = "mutant.gguf";
  await mutate(
    { name: `GGUF ${kind}`, kinds: 3 },
    (seed) => mutant(file, file.length - data, seed),
    async (bytes) => {
      const { length: size } = bytes;
      parseGgufHeader({
        name,
        size,
        read(offset, length) {
          if (!(offset >= 0 && length >= 0 && offset + length <= size))
            throw new Error(`read of ${length} at ${offset} of ${size}`);
          return bytes.subarray(offset, offset + length);
        },
      });
      const read = parseGguf(bytes, name);
      const stored = [...read.tensors.values()].reduce((sum, tensor) => sum + tensor.bytes().length, 0);
      expect(stored).toBeLessThan(size);
      const parsed = parseModelConfig(ggufConfig(read, name), name);
      const { weights, tokenizer } = ggufContent(read, parsed, name);
      const again = withDevice(cpu, () => createModel(parsed));
      loadWeights(again, weights);
      expect(again.numParameters).toBeLessThan(2 * size);
      expect(typeof tokenizer.decode(await tokenizer.encode("Once upon a time, 12 é"))).toBe("string");
    },
  );
});

const wordPiece: TokenizerJson = {
  ...bpe,
  added_tokens: bpe.added_tokens.slice(0, 1),
  normalizer: {
    type: "BertNormalizer",
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase: true,
  },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: null,
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: { "<|begin|>": 0, "[UNK]": 1, once: 2, up: 3, "##on": 4, a: 5, time: 6 },
  },
};
const unigram: TokenizerJson = {
  ...bpe,
  added_tokens: [],
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  post_processor: null,
  decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  model: {
    type: "Unigram",
    unk_id: 0,
    byte_fallback: false,
    vocab: [
      ["<unk>", 0],
      ["▁", -1],
      ["▁a", -2],
      ["t", -3],
      ["i", -3],
      ["me", -3],
    ] as never,
  },
};
const kinds = {
  bpe,
  characters: charTokenizer("abcdefghijklmnopqrstuvwxyz O", { special_tokens: ["<s>"], bos_token: "<s>" }),
  wordPiece,
  unigram,
};

it.each(Object.entries(kinds))("tokenizer.json: %s", async (kind, json) => {
  const text = JSON.stringify(json);
  const path = join(folder, "tokenizer.json");
  await mutate(
    { name: `tokenizer.json ${kind}`, kinds: 4 },
    (seed) => mutantText(text, seed),
    async (bytes) => {
      writeFileSync(path, bytes);
      const tokenizer = Tokenizer.load(path);
      const ids = await tokenizer.encode("Once upon a time, 12 é");
      expect(typeof tokenizer.decode(ids)).toBe("string");
    },
  );
});

it("adapters of PEFT: configs and weights", async () => {
  const sizes = { vocab_size: 20, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 };
  const before = setDevice(new ReferenceDevice());
  try {
    const model = createModel(tinyllmConfig(sizes)).init(1);
    addAdapter(model, { r: 2, modules_to_save: ["norm"], rank_pattern: { v_proj: 3 } });
    const path = join(folder, "adapter");
    await saveAdapter(path, model);
    const read = (name: string) => readFileSync(join(path, name));
    const [config, weights] = [read("adapter_config.json"), read("adapter_model.safetensors")];
    const values = [...parseSafetensors(weights, "").values()].reduce(
      (sum, { bytes }) => sum + bytes.length,
      0,
    );
    const damaged = join(folder, "damaged");
    mkdirSync(damaged);
    const load = (name: string) => async (bytes: Uint8Array) => {
      writeFileSync(join(damaged, "adapter_config.json"), config);
      writeFileSync(join(damaged, "adapter_model.safetensors"), weights);
      writeFileSync(join(damaged, name), bytes);
      const held = model.headWeight.device.bytesInUse;
      try {
        await loadAdapter(model, damaged, "damaged");
        useAdapter(model, "damaged");
        removeAdapter(model, "damaged");
      } finally {
        expect(model.headWeight.device.bytesInUse).toBe(held);
      }
    };
    const [texts, files] = ["adapter_config.json", "adapter_model.safetensors"];
    await mutate({ name: texts, kinds: 2 }, (seed) => mutantText(String(config), seed), load(texts));
    const make = (seed: number) => mutant(weights, weights.length - values, seed);
    await mutate({ name: files, kinds: 2 }, make, load(files));
  } finally {
    setDevice(before);
  }
});
