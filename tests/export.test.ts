import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { loadModel, readTensors, saveModel } from "../models/formats/hf_directory.ts";
import { toFloat32 } from "../models/formats/safetensors.ts";
import { createModel, parseModelConfig } from "../models/index.ts";
import { charTokenizer, Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";
import { compareExport, comparisonText } from "../train/deploy/compare.ts";
import { type ExportOptions, exportModel } from "../train/deploy/export.ts";
import { modelfile } from "../train/deploy/modelfile.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-export-"));
const source = join(folder, "source");
const bpe = trainBpe(storyCorpus({ seed: 1, stories: 30 }), {
  vocab_size: 300,
  special_tokens: ["<|begin|>", "<|im_end|>"],
});
const config = {
  model_type: "llama",
  vocab_size: 300,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  initializer_range: 0.2,
  rope_parameters: { rope_type: "linear", rope_theta: 20000, factor: 2 },
  bos_token_id: 0,
  eos_token_id: 1,
};
const named = { tokenizer_config: { eos_token: "<|im_end|>" } };
const random = (changes = {}) => createModel(parseModelConfig({ ...config, ...changes })).init(1);

beforeAll(async () => {
  await openDevice();
  await saveModel(
    source,
    random(),
    new Tokenizer(bpe, { ...named, chat_template: "<|im_start|>{{ messages }}" }),
  );
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

const whole = { maxShardBytes: 5e9 };
const out = (name: string) => join(folder, name);
const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), "utf8"));

describe("kiln export", () => {
  it.each<[ExportOptions["to"], ExportOptions["dtype"]]>([
    ["hf", "f32"],
    ["gguf", "f32"],
    ["ollama", "f32"],
    ["hf", "f16"],
    ["gguf", "f16"],
    ["ollama", "q8_0"],
    ["gguf", "q4_0"],
  ])("to %s in %s loads again as the same model", async (to, dtype) => {
    const path = out(`${to}-${dtype}`);
    const found = await exportModel(source, { to, dtype, out: path, ...whole });
    expect(found).toMatchObject({ tensors: 21, texts: 5, sameNextToken: true });
    const exact = dtype === "f32";
    expect([found.weight.difference === 0, found.logit.difference === 0]).toEqual([exact, exact]);
    // Of random weights, where a share of the largest logit is what a step makes of it: measured 0.0007, 0.025 and 0.29.
    const share = { f32: 1e-9, f16: 0.01, q8_0: 0.05, q4_0: 0.4 }[dtype];
    expect(found.logit.difference / found.logit.largest).toBeLessThan(share);
    expect(comparisonText(found)).toMatch(
      /^loaded again: the weights of 21 tensors are within .* 5 texts are equal$/,
    );
    const { tokenizer } = await loadModel(to === "ollama" ? join(path, "model.gguf") : path);
    expect(tokenizer.chatTemplate).toBe("<|im_start|>{{ messages }}");
    if (to === "ollama") expect(readdirSync(path).sort()).toEqual(["Modelfile", "model.gguf"]);
  });

  it("to hf writes config keys in the spellings of transformers before and since 5", async () => {
    await exportModel(source, { to: "hf", dtype: "f16", out: out("keys"), ...whole });
    expect(json(out("keys"), "config.json")).toMatchObject({
      architectures: ["LlamaForCausalLM"],
      dtype: "float16",
      torch_dtype: "float16",
      rope_theta: 20000,
      rope_scaling: { rope_type: "linear", factor: 2 },
      rope_parameters: { rope_type: "linear", rope_theta: 20000, factor: 2 },
    });
  });

  it("to hf cuts weights into shards of a size, with an index", async () => {
    const path = out("shards");
    await exportModel(source, { to: "hf", dtype: "f32", out: path, maxShardBytes: 60_000 });
    const { metadata, weight_map: map } = json(path, "model.safetensors.index.json");
    const shards = readdirSync(path).filter((name) => name.endsWith(".safetensors"));
    expect(shards.length).toBeGreaterThan(3);
    expect(new Set(Object.values(map))).toEqual(new Set(shards));
    expect(shards[0]).toBe(`model-00001-of-0000${shards.length}.safetensors`);
    const { model } = await loadModel(source);
    expect([Object.keys(map).length, metadata.total_size]).toEqual([21, 4 * model.numParameters]);
    // The embedding and the head are larger than a shard; each has one for itself.
    const sizes = shards.map((name) => statSync(join(path, name)).size);
    expect(sizes.filter((size) => size > 63_000).length).toBe(2);
    const loaded = await readTensors((await loadModel(path)).model.namedParameters());
    for (const [name, { bytes }] of await readTensors(model.namedParameters())) {
      expect(Buffer.compare(bytes, loaded.get(name)!.bytes)).toBe(0);
    }
  });

  it("refuses a type that a format lacks, and to replace anything", async () => {
    const request = { to: "hf", dtype: "q8_0", out: out("never"), ...whole } as const;
    await expect(exportModel(source, request)).rejects.toThrow(
      /^--to hf holds f32 or f16, not q8_0; use --to gguf/,
    );
    await expect(exportModel(source, { ...request, dtype: "f32", out: source })).rejects.toThrow(
      /source exists; remove it or give another --out$/,
    );
  });

  it.each(["gguf", "ollama"] as const)(
    "to %s keeps nothing of a model that the file cannot hold",
    async (to) => {
      const characters = out("characters");
      const alphabet = charTokenizer("abc ", { special_tokens: ["<s>"], bos_token: "<s>" });
      const ends = { tokenizer_config: { eos_token: "<s>" } };
      if (!existsSync(characters)) await saveModel(characters, random(), new Tokenizer(alphabet, ends));
      const path = out(`no-${to}`);
      await expect(exportModel(characters, { to, dtype: "f32", out: path, ...whole })).rejects.toThrow(
        /^a GGUF file cannot hold this tokenizer: .*; export the model with --to hf instead$/,
      );
      expect(readdirSync(folder).filter((name) => name.includes(`no-${to}`))).toEqual([]);
    },
  );
});

describe("the comparison", () => {
  const original = async () => {
    const { model, tokenizer } = await loadModel(source);
    return { model, tokenizer, tensors: await readTensors(model.namedParameters()) };
  };

  it("names the weight that differs", async () => {
    const ours = await original();
    const { model } = await loadModel(source);
    const changed = model.namedParameters().get("model.layers.1.mlp.up_proj.weight")!;
    const values = Float32Array.from(await changed.data());
    values[77] += 0.25;
    changed.write(values);
    await saveModel(out("changed"), model, ours.tokenizer);
    await expect(compareExport(ours, out("changed"), "q8_0")).rejects.toThrow(
      /is not the model: model\.layers\.1\.mlp\.up_proj\.weight is off by 0\.25, and q8_0 allows 0\.00/,
    );
  });

  it("names the text whose ids differ", async () => {
    const ours = await original();
    const other = new Tokenizer({ ...bpe, post_processor: null }, named);
    await saveModel(out("other"), ours.model, other);
    await expect(compareExport(ours, out("other"), "f32")).rejects.toThrow(
      /its tokenizer encodes "Once upon a time/,
    );
  });

  it("has steps that hold a weight of any size", async () => {
    const model = random({ initializer_range: 3e-5 });
    await saveModel(out("faint"), model, new Tokenizer(bpe, named));
    for (const dtype of ["f16", "q8_0", "q4_0"] as const) {
      const { weight } = await exportModel(out("faint"), {
        to: "gguf",
        dtype,
        out: out(`faint-${dtype}`),
        ...whole,
      });
      const largest = Math.max(...toFloat32((await readTensors(model.namedParameters())).get(weight.name)!));
      expect(weight.difference).toBeLessThan(largest / 4);
    }
  });
});

describe("a Modelfile", () => {
  const written = (chat_template?: string) => {
    const tokenizer = new Tokenizer(bpe, {
      ...named,
      ...(chat_template === undefined ? {} : { chat_template }),
    });
    return modelfile({ from: "./model.gguf", tokenizer, contextLength: 64 });
  };

  it("of a plain model continues the prompt", () => {
    expect(written()).toBe(
      'FROM ./model.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 64\n',
    );
  });

  it("of a ChatML model writes turns and stops at their ends", () => {
    expect(written("{% for m in messages %}<|im_start|>{{ m.role }}…")).toBe(`FROM ./model.gguf
TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PARAMETER stop "<|im_start|>"
PARAMETER stop "<|im_end|>"
PARAMETER num_ctx 64
`);
  });

  it("has stops as they are, since Ollama's parser knows no escapes", () => {
    const stopped = (eos_token: string) => {
      const model = { ...bpe, added_tokens: [{ ...bpe.added_tokens[1], content: eos_token }] };
      const tokenizer = new Tokenizer(model, { tokenizer_config: { eos_token } });
      return modelfile({ from: "./model.gguf", tokenizer, contextLength: 64 })
        .split("\n")
        .slice(2, -2)
        .join("\n");
    };
    expect(stopped('<\\end "of" turn>')).toBe('PARAMETER stop "<\\end "of" turn>"');
    expect(stopped('"\n')).toBe('PARAMETER stop """"\n"""');
  });

  it("of a model with another template leaves it to the one in the file", () => {
    expect(written("[INST] {{ messages }}")).toMatch(
      /^FROM \.\/model\.gguf\n# The chat template is the one in the GGUF/,
    );
    expect(written("[INST] {{ messages }}")).not.toContain("TEMPLATE");
  });
});
