import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf as readHeader } from "@huggingface/gguf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { readGguf } from "../models/formats/gguf.ts";
import { writeGgufAdapter } from "../models/formats/gguf_adapter.ts";
import { loadAdapted } from "../models/formats/peft_directory.ts";
import {
  type AdapterConfig,
  addAdapter,
  type CausalLM,
  loadModel,
  saveAdapter,
  useAdapter,
} from "../models/index.ts";
import { normalInit, type Parameter } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";
import { type ExportOptions, exportModel } from "../train/deploy/export.ts";
import { difference, largest, read, tinyGpt2, tinyLlama } from "./support/tiny_decoders.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-export-adapter-"));
const out = (name: string) => join(folder, name);
const tokenizer = new Tokenizer(
  trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 280, special_tokens: ["<|end|>"] }),
  { tokenizer_config: { eos_token: "<|end|>" } },
);
const bases = {
  llama: () => tinyLlama({ vocab_size: 280, tie_word_embeddings: false }),
  gpt2: () => tinyGpt2({ vocab_size: 280 }),
};

beforeAll(async () => {
  await openDevice();
  for (const [name, make] of Object.entries(bases)) await make().savePretrained(out(name), tokenizer);
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

/** The base with an adapter at work of which every number matters, saved to a folder. */
async function adapted(
  base: keyof typeof bases,
  config: Partial<AdapterConfig>,
  path: string,
): Promise<CausalLM> {
  const model = bases[base]();
  const adapter = addAdapter(model, { base_model_name_or_path: out(base), ...config });
  useAdapter(model, "default");
  for (const [name, parameter] of adapter.parameters()) normalInit(parameter as Parameter, 0.3, 3, name);
  await saveAdapter(path, model);
  return model;
}

const every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const cases: [string, keyof typeof bases, Partial<AdapterConfig>][] = [
  ["plain", "llama", { r: 4, lora_alpha: 12, target_modules: every }],
  ["rank-stabilised", "llama", { r: 3, lora_alpha: 5, target_modules: "all-linear", use_rslora: true }],
  [
    "with ranks and alphas of its own in some layers",
    "llama",
    {
      r: 4,
      target_modules: [...every, "embed_tokens", "lm_head"],
      rank_pattern: { k_proj: 2 },
      alpha_pattern: { q_proj: 3 },
    },
  ],
  ["of Conv1D", "gpt2", { r: 4, lora_alpha: 8, target_modules: ["c_attn", "c_proj", "c_fc"] }],
];

describe.each(cases)("kiln export of an adapter %s", (name, base, config) => {
  const path = out(name.replaceAll(" ", "-"));
  let logits: number[];
  beforeAll(async () => {
    logits = await read(await adapted(base, config, path));
    expect(difference(await read(bases[base]()), logits)).toBeGreaterThan(largest(logits) / 10);
  });

  it.each<ExportOptions["to"]>(["peft", "gguf"])(
    "to %s computes the same when it is loaded again",
    async (to) => {
      const file = `${path}.${to}`;
      const found = await exportModel(path, { to, dtype: "f32", out: file, maxShardBytes: 5e9 });
      expect(found).toMatchObject({ sameNextToken: true, merge: null });
      expect(found.logit.difference).toBeLessThan(1e-5 * found.logit.largest);
      const { model } = await loadAdapted(out(base), file);
      expect(difference(await read(model), logits)).toBeLessThan(1e-5 * largest(logits));
    },
  );

  it("to hf is the base with the adapter merged", async () => {
    const { merge } = await exportModel(path, {
      to: "hf",
      dtype: "f32",
      out: `${path}.hf`,
      maxShardBytes: 5e9,
    });
    expect(merge!.drift).toBeLessThan(1e-4 * merge!.largest);
    const { model } = await loadModel(`${path}.hf`);
    expect(difference(await read(model), logits)).toBeLessThan(1e-4 * largest(logits));
  });

  it("to gguf is the change from the base's GGUF to the merged model's, in their order of rows", async () => {
    const whole = async (from: string, to: string) => {
      await exportModel(from, { to: "gguf", dtype: "f32", out: to, maxShardBytes: 5e9 });
      return readGguf(to).tensors;
    };
    const [before, after] = [
      await whole(out(base), `${path}.base.gguf`),
      await whole(`${path}.hf`, `${path}.merged.gguf`),
    ];
    const { metadata, tensors } = readGguf(`${path}.gguf`);
    const alpha = Number(metadata.get("adapter.lora.alpha")!.value);
    const valuesIn = (file: typeof tensors, key: string) => {
      const bytes = file.get(key)!.bytes().slice();
      return new Float32Array(bytes.buffer);
    };
    for (const key of [...tensors.keys()].filter((each) => each.endsWith(".lora_b"))) {
      const name = key.replace(/\.lora_b$/, "");
      const [old, merged] = [valuesIn(before, name), valuesIn(after, name)];
      const [a, b] = [valuesIn(tensors, `${name}.lora_a`), valuesIn(tensors, key)];
      const [outputs, rank] = tensors.get(key)!.shape;
      // B A, but of an embedding A B^T: llama.cpp takes rows of A by token.
      const isEmbedding = name.startsWith("token_embd");
      const width = isEmbedding ? outputs : old.length / outputs;
      const wanted = Array.from(old, (value, at) => {
        const [i, j] = [Math.floor(at / width), at % width];
        let sum = 0;
        for (let k = 0; k < rank; k++)
          sum += isEmbedding ? a[i * rank + k] * b[j * rank + k] : b[i * rank + k] * a[k * width + j];
        return value + (alpha / rank) * sum;
      });
      expect(difference(Array.from(merged), wanted), name).toBeLessThan(1e-4 * largest(wanted));
    }
  });
});

describe("a GGUF adapter", () => {
  it("has the names, the shapes and the one alpha of llama.cpp", async () => {
    const model = await adapted(
      "llama",
      { r: 4, lora_alpha: 8, target_modules: every, use_rslora: true },
      out("named"),
    );
    await writeGgufAdapter(out("named.gguf"), model, { dtype: "f16", name: "named" });
    const { metadata, tensorInfos } = await readHeader(out("named.gguf"), { allowLocalFile: true });
    expect(metadata).toMatchObject({
      "general.architecture": "llama",
      "general.type": "adapter",
      "adapter.type": "lora",
      "adapter.lora.alpha": 16,
    });
    const shapes = Object.fromEntries(tensorInfos.map(({ name, shape }) => [name, shape.map(Number)]));
    expect(Object.keys(shapes)).toHaveLength(28);
    expect(shapes["blk.1.attn_k.weight.lora_a"]).toEqual([64, 4]);
    expect(shapes["blk.1.attn_k.weight.lora_b"]).toEqual([4, 32]);
  });

  it.each<[string, Partial<AdapterConfig>, RegExp]>([
    ["DoRA", { use_dora: true }, /no place for DoRA's magnitudes; merge it: .*--to hf/],
    [
      "what is trained whole",
      { modules_to_save: ["lm_head"] },
      /no place for lm_head.weight, which is trained whole/,
    ],
  ])("refuses %s and keeps nothing", async (name, config, message) => {
    await adapted("llama", config, out(name));
    const file = out(`${name}.gguf`);
    const request = { to: "gguf", dtype: "f32", out: file, maxShardBytes: 5e9 } as const;
    await expect(exportModel(out(name), request)).rejects.toThrow(message);
    expect(readdirSync(folder)).not.toContain(`${name}.gguf`);
  });

  it("is refused for another architecture, and a model as an adapter", async () => {
    const model = await adapted("gpt2", {}, out("other"));
    await writeGgufAdapter(out("other.gguf"), model, { dtype: "f32", name: "other" });
    await expect(loadAdapted(out("llama"), out("other.gguf"))).rejects.toThrow(
      /general.architecture is "gpt2", not llama; give an adapter of this model$/,
    );
    await exportModel(out("llama"), { to: "gguf", dtype: "f32", out: out("whole.gguf"), maxShardBytes: 5e9 });
    await expect(loadAdapted(out("llama"), out("whole.gguf"))).rejects.toThrow(/general.type is "missing"/);
  });
});

it("kiln export names what it needs of an adapter", async () => {
  await adapted("llama", { base_model_name_or_path: "org/gone" }, out("lost"));
  const request = { to: "peft", dtype: "f32", out: out("never"), maxShardBytes: 5e9 } as const;
  await expect(exportModel(out("lost"), request)).rejects.toThrow(
    /is an adapter of org\/gone, which is not here; give --base/,
  );
  expect(await exportModel(out("lost"), { ...request, base: out("llama") })).toMatchObject({
    sameNextToken: true,
  });
  await expect(exportModel(out("llama"), { ...request, out: out("x") })).rejects.toThrow(
    /is a whole model, .*use --to hf/,
  );
  const q8 = { ...request, base: out("llama"), to: "gguf", dtype: "q8_0", out: out("q8") } as const;
  await expect(exportModel(out("lost"), q8)).rejects.toThrow(
    /^an adapter's file holds f32 or f16, not q8_0$/,
  );
});
