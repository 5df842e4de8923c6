import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { parseModelConfig, readModelConfig } from "../models/architectures.ts";
import { resolveModel } from "../models/hub/resolve.ts";
import {
  type LlamaConfig,
  parseLlamaConfig,
  ropeInverseFrequencies,
  tinyllmConfig,
  toHfLlamaConfig,
} from "../models/llama_config.ts";
import { originOf } from "../train/model_settings.ts";
import { loadPretrainConfig, parsePretrainConfig, recipe } from "../train/recipes/pretrain.ts";
import { describeSettings, parseOverrides } from "../train/settings/load.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const stories = new URL("../../shared/data/models/stories260K-hf/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-config-"));
afterAll(() => rmSync(folder, { recursive: true }));

const tiny = {
  model_type: "llama",
  vocab_size: 97,
  hidden_size: 48,
  intermediate_size: 112,
  num_hidden_layers: 3,
  num_attention_heads: 6,
};
const llama3 = {
  rope_type: "llama3",
  rope_theta: 500000,
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

describe("Llama config", () => {
  it.each(["models/llama", "curves/llama"])(
    "reads %s as transformers 5 wrote it and writes all of its keys",
    async (name) => {
      const config = (await readModelConfig(join(golden, name))) as LlamaConfig;
      expect(config).toMatchObject({ ...tiny, num_key_value_heads: 2, head_dim: 8, rms_norm_eps: 1e-6 });
      expect(config.rope_parameters).toEqual({ rope_type: "default", rope_theta: 10000 });
      const { transformers_version: _version, ...original } = JSON.parse(
        readFileSync(join(golden, name, "config.json"), "utf8"),
      );
      expect(toHfLlamaConfig(config)).toMatchObject(original);
      expect(toHfLlamaConfig(config)).toMatchObject({
        rope_theta: 10000,
        rope_scaling: null,
        torch_dtype: "float32",
      });
    },
  );

  it.skipIf(!existsSync(stories))(
    "reads the legacy keys of a real model (skipped: no ../shared/data)",
    async () => {
      const config = (await readModelConfig(stories)) as LlamaConfig;
      expect(config).toMatchObject({
        hidden_size: 64,
        num_key_value_heads: 4,
        tie_word_embeddings: true,
        rms_norm_eps: 1e-5,
      });
      expect(config.rope_parameters).toEqual({ rope_type: "default", rope_theta: 10000 });
    },
  );

  it("fills in the defaults of transformers", () => {
    const config = parseLlamaConfig({ ...tiny, num_key_value_heads: null, head_dim: null, pad_token_id: -1 });
    expect(config).toEqual({
      ...tiny,
      num_key_value_heads: 6,
      head_dim: 8,
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-6,
      hidden_act: "silu",
      attention_bias: false,
      mlp_bias: false,
      attention_dropout: 0,
      tie_word_embeddings: false,
      rope_parameters: { rope_type: "default", rope_theta: 10000 },
      initializer_range: 0.02,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: null,
    });
  });

  it("reads both spellings of rotary settings to the same thing, and its own output back", () => {
    const { rope_theta, rope_type, ...rest } = llama3;
    const spellings = [
      { rope_parameters: llama3 },
      { rope_theta, rope_scaling: { rope_type, ...rest } },
      { rope_theta, rope_scaling: { type: rope_type, ...rest } },
    ];
    for (const spelling of spellings) {
      const config = parseLlamaConfig({ ...tiny, eos_token_id: [2, 3], ...spelling });
      expect(config.rope_parameters).toEqual(llama3);
      expect(parseLlamaConfig(JSON.parse(JSON.stringify(toHfLlamaConfig(config))))).toEqual(config);
      const { rope_parameters: _new, ...legacyOnly } = toHfLlamaConfig(config);
      expect(parseLlamaConfig(legacyOnly)).toEqual(config);
    }
  });

  it.each<[string, object, string]>([
    ["another model", { model_type: "mistral" }, 'model_type is "mistral"; kiln can load llama'],
    [
      "another activation",
      { hidden_act: "gelu" },
      'hidden_act is "gelu"; kiln computes Llama with "silu" only',
    ],
    ["quantized weights", { quantization_config: { bits: 4 } }, "the weights are quantized"],
    [
      "odd groups",
      { num_key_value_heads: 4 },
      "num_attention_heads 6 is not a multiple of num_key_value_heads 4",
    ],
    ["odd heads", { num_attention_heads: 5 }, "hidden_size 48 is not a multiple of num_attention_heads 5"],
    ["an odd head_dim", { head_dim: 7 }, "head_dim is 7; rotary positions need an even number"],
    [
      "yarn",
      { rope_scaling: { type: "yarn", factor: 2 } },
      'rope_type "yarn"; kiln computes default, linear and llama3',
    ],
    [
      "a lacking factor",
      { rope_scaling: { type: "linear" } },
      "rope_scaling of rope_type linear lacks factor",
    ],
    [
      "partial rotation",
      { rope_parameters: { partial_rotary_factor: 0.5 } },
      "kiln rotates whole heads only",
    ],
    ["partial rotation, old spelling", { partial_rotary_factor: 0.5 }, "kiln rotates whole heads only"],
    ["a factor without its kind", { rope_scaling: { factor: 2 } }, "has a factor but no rope_type"],
    [
      "two rotations",
      {
        rope_parameters: { rope_type: "default", rope_theta: 10000 },
        rope_scaling: { type: "linear", factor: 2 },
      },
      "rope_scaling and rope_parameters describe different rotations",
    ],
    [
      "two bases of rotation",
      { rope_parameters: { rope_theta: 10000 }, rope_theta: 500000 },
      "rope_theta is 500000, in rope_parameters 10000",
    ],
    ["a sliding window", { sliding_window: 16 }, "sliding_window is 16; kiln attends to the whole context"],
    [
      "an architecture without a model_type",
      { model_type: undefined, architectures: ["MistralForCausalLM"] },
      'architectures is ["MistralForCausalLM"] without a model_type',
    ],
    ["text for a number", { hidden_size: "48" }, 'hidden_size is "48"; expected a number'],
    ["a fraction", { hidden_size: 48.5 }, "hidden_size is 48.5; expected a whole number"],
    ["no vocabulary", { vocab_size: undefined }, "vocab_size is nothing; expected a number"],
    ["zero layers", { num_hidden_layers: 0 }, "num_hidden_layers is 0; expected at least 1"],
  ])("refuses %s in one line", (_label, change, message) => {
    const attempt = () => parseModelConfig({ ...tiny, ...change }, "m/config.json");
    expect(attempt).toThrow(KilnError);
    expect(attempt).toThrow(/^m\/config\.json: [^\n]*$/);
    expect(attempt).toThrow(message);
  });

  it("takes a window that is off or as wide as the context", () => {
    for (const change of [
      { sliding_window: null },
      { sliding_window: 2048, max_position_embeddings: 2048 },
      { sliding_window: 16, use_sliding_window: false },
    ])
      expect(parseLlamaConfig({ ...tiny, ...change })).not.toHaveProperty("sliding_window");
  });

  it("refuses a config that is no object", () => {
    for (const value of [null, [], 3, "llama"])
      expect(() => parseLlamaConfig(value)).toThrow(/^config\.json: the whole is/);
  });

  it("makes the TinyLLM preset", () => {
    const config = tinyllmConfig({ vocab_size: 1024 });
    expect(config).toMatchObject({
      hidden_size: 128,
      intermediate_size: 352,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      num_key_value_heads: 4,
      head_dim: 32,
      max_position_embeddings: 512,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
      vocab_size: 1024,
    });
    expect(tinyllmConfig({ vocab_size: 300, hidden_size: 48 }).intermediate_size).toBe(128);
    expect(() => tinyllmConfig({ vocab_size: 300, num_attention_heads: 3 })).toThrow(
      "the model settings: hidden_size 128",
    );
  });
});

describe("rotary frequencies", () => {
  it("default and linear", () => {
    const base = { head_dim: 8, rope_parameters: { rope_type: "default" as const, rope_theta: 10000 } };
    const expected = [1, 0.1, 0.01, 0.001];
    for (const [i, f] of ropeInverseFrequencies(base).entries()) expect(f).toBeCloseTo(expected[i], 15);
    const linear = {
      ...base,
      rope_parameters: { rope_type: "linear" as const, rope_theta: 10000, factor: 4 },
    };
    for (const [i, f] of ropeInverseFrequencies(linear).entries()) expect(f).toBeCloseTo(expected[i] / 4, 15);
  });

  it("llama3 as in Llama 3.1 8B", () => {
    const config = parseLlamaConfig({ ...tiny, head_dim: 128, rope_parameters: llama3 });
    const frequencies = ropeInverseFrequencies(config);
    // From a separate float64 evaluation of transformers' formula in its own order of operations.
    const expected: [number, number][] = [
      [0, 1],
      [20, 0.016560440080994446],
      [28, 0.0032114459947525913],
      [29, 0.002166570763503359],
      [31, 0.0008567514129196321],
      [33, 0.00031269375038406517],
      [35, 9.556212353964683e-5],
      [36, 7.78465527393245e-5],
      [50, 4.411534674558404e-6],
      [63, 3.068925988914511e-7],
    ];
    expect(frequencies.length).toBe(64);
    for (const [i, value] of expected) expect(Math.abs(frequencies[i] / value - 1)).toBeLessThan(1e-12);
  });
});

describe("pretrain config", () => {
  const parse = (text: string, ...set: string[]) => parsePretrainConfig(text, "c.yaml", parseOverrides(set));

  it("has a default for everything", () => {
    const config = parse("");
    expect(config.train).toMatchObject({
      batch_size: 16,
      sequence_length: 256,
      schedule: "cosine",
      optimizer: { name: "adamw", weight_decay: 0.1, betas: [0.9, 0.95], eps: 1e-8 },
    });
    expect(config).toMatchObject({
      out_dir: "runs/pretrain",
      resume: false,
      data: { corpus: { stories: 4000 } },
    });
    expect(parse("train: {steps: 7, warmup_steps: 0}")).toMatchObject({
      train: { steps: 7, learning_rate: 1e-3 },
    });
  });

  it("reads the documented examples, from any folder", async () => {
    const path = new URL("../docs/configs/tinyllm.yaml", import.meta.url).pathname;
    const config = await loadPretrainConfig(path);
    expect(config.model).toMatchObject({ hidden_size: 128, num_hidden_layers: 4 });
    expect(tinyllmConfig({ vocab_size: 2048 })).toMatchObject({
      intermediate_size: config.model.intermediate_size,
    });
    writeFileSync(join(folder, "latin1.yaml"), Buffer.from("sample: {prompts: [caf\u00e9]}", "latin1"));
    await expect(loadPretrainConfig(join(folder, "latin1.yaml"))).rejects.toThrow(/latin1.yaml is not UTF-8/);
    const chars = await loadPretrainConfig(path.replace("tinyllm", "shakespeare_char"));
    expect(chars).toMatchObject({ tokenizer: { kind: "char" }, train: { steps: 2000, sequence_length: 64 } });
    expect(chars.model).toMatchObject({ preset: "gpt2", bias: false, dropout: 0, hidden_size: 128 });
    const large = await loadPretrainConfig(path.replace("tinyllm", "shakespeare_char_gpu"));
    expect(large).toMatchObject({ model: { dropout: 0.2, hidden_size: 384 }, train: { batch_size: 64 } });
    const gpt2 = await loadPretrainConfig(path.replace("tinyllm", "gpt2"));
    expect(gpt2.model).toMatchObject({ preset: "gpt2", bias: true, dropout: 0 });
    // null takes a value back, from the file as from the command line: the default holds again.
    const unset = ["train.steps=null", "train.epochs=2", "model.hidden_size=null", "train.betas=null"];
    const back = await loadPretrainConfig(path, parseOverrides(unset));
    expect(back.train).toMatchObject({ epochs: 2, optimizer: { betas: [0.9, 0.95] } });
    expect([back.train.steps, back.model.hidden_size]).toEqual([undefined, undefined]);
    expect(parsePretrainConfig("train:\n  steps:\neval: null\n", "c.yaml").eval.every).toBe(100);
    writeFileSync(
      join(folder, "c.json"),
      JSON.stringify({ data: { path: "a.txt", validation_path: "v.txt" }, tokenizer: { path: "t" } }),
    );
    const relative = await loadPretrainConfig(
      join(folder, "c.json"),
      parseOverrides(["tokenizer.path=u.json"]),
    );
    expect(relative.data.path).toEqual([join(folder, "a.txt")]);
    expect(relative.data.validation_path).toEqual([join(folder, "v.txt")]);
    expect(relative.tokenizer.path).toBe(resolve("u.json"));
    await expect(loadPretrainConfig(join(folder, "none.yaml"))).rejects.toThrow("none.yaml does not exist");
    expect((await loadPretrainConfig(null, parseOverrides(["train.seed=5"]))).train.seed).toBe(5);
  });

  it("says that a run folder has lost its settings, and takes those of a file instead", async () => {
    const out = join(folder, "lost");
    mkdirSync(join(out, "checkpoints"), { recursive: true });
    const overrides = parseOverrides([`out_dir=${out}`, "resume=true"]);
    await expect(loadPretrainConfig(null, overrides)).rejects.toThrow(
      `${join(out, "config.json")} is missing, and with it the settings of the run; put it back`,
    );
    const path = new URL("../docs/configs/tinyllm.yaml", import.meta.url).pathname;
    expect(await loadPretrainConfig(path, overrides)).toMatchObject({ out_dir: out, resume: true });
  });

  it("takes values of --set over those of the file", () => {
    const config = parse(
      "train: {steps: 5, seed: 1}",
      "train.steps=900",
      "sample.prompts=[a, b]",
      "train.steps=800",
    );
    expect(config.train).toMatchObject({ steps: 800, seed: 1 });
    expect(config.sample.prompts).toEqual(["a", "b"]);
  });

  it.each<[string, string, string[], string]>([
    [
      "an unknown key",
      "train:\n  steps: 500\n  lerning_rate: 1",
      [],
      "c.yaml:3: unknown key train.lerning_rate; did you mean train.learning_rate?",
    ],
    ["an unknown group", "trian:\n  steps: 1", [], "c.yaml:1: unknown key trian; did you mean train?"],
    [
      "a far name",
      "sample:\n  qqqqqqqqqqqqqq: 1",
      [],
      "valid names are every, prompts, max_tokens, temperature",
    ],
    ["a wrong type", "train:\n  steps: many", [], 'c.yaml:2: train.steps is "many"; expected a number'],
    ["a fraction", "train:\n  steps: 500.5", [], "c.yaml:2: train.steps is 500.5; expected a whole number"],
    [
      "a value out of range",
      "train:\n\n  betas: [0.9, 1]",
      [],
      "c.yaml:3: train.optimizer.betas.1 is 1; expected less than 1",
    ],
    [
      "an unknown choice",
      "train: {schedule: cosin}",
      [],
      'c.yaml:1: train.schedule is "cosin"; expected "constant" or',
    ],
    ["a group that is none", "train: 5", [], "c.yaml:1: train is 5; expected a group of keys"],
    ["an empty list", "data: {path: []}", [], "c.yaml:1: data.path is []; expected at least 1 entries"],
    ["steps and epochs", "train: {steps: 500, epochs: 2}", [], "give steps or epochs, not both"],
    [
      "a long sequence",
      "train: {sequence_length: 1024}",
      [],
      "c.yaml:1: train.sequence_length: 1024 is longer than",
    ],
    [
      "a long warm-up",
      "train: {steps: 50, warmup_steps: 100}",
      [],
      "train.warmup_steps: 100 is more than the 50 steps",
    ],
    [
      "a bad --set",
      "",
      ["train.stepz=5"],
      "--set train.stepz=5: unknown key train.stepz; did you mean train.steps?",
    ],
    [
      "a --set into an unknown group",
      "train: {steps: 500}",
      ["tokeniser.kind=char"],
      "--set tokeniser.kind=char: unknown key tokeniser; did you mean tokenizer?",
    ],
    [
      "a bad --set value",
      "train: {steps: 500}",
      ["train.steps=x"],
      '--set train.steps=x: train.steps is "x"',
    ],
    [
      "a --set into a value",
      "out_dir: x",
      ["out_dir.y=1"],
      "--set out_dir.y=1: out_dir is not a group of keys",
    ],
    ["a --set of __proto__", "", ["__proto__.x=1"], "unknown key __proto__"],
    ["broken YAML", "train:\n  steps: [1", [], "c.yaml:2: "],
    ["a list", "- a", [], "c.yaml: expected keys"],
  ])("refuses %s and says where", (_label, text, set, message) => {
    expect(() => parse(text, ...set)).toThrow(KilnError);
    expect(() => parse(text, ...set)).toThrow(message);
    expect(() => parse(text, ...set)).toThrow(/^[^\n]*$/);
  });

  it("refuses --set without a value", () => {
    expect(() => parseOverrides(["train.steps"])).toThrow("expected name=value");
    expect(() => parseOverrides(["train.steps=[1"])).toThrow("not valid YAML");
  });

  it("describes every setting", () => {
    const settings = describeSettings(recipe.schema);
    expect(settings.length).toBeGreaterThan(50);
    for (const { name, description } of settings) expect(description, name).not.toBe("");
    expect(settings).toContainEqual({
      name: "train.learning_rate",
      default: "0.001",
      description: "the highest rate",
    });
    expect(settings.find(({ name }) => name === "data.path")).toMatchObject({ default: "" });
  });
});

it("a run's folder stands for its finished model, with its adapter merged; before that the error says so", async () => {
  const run = join(folder, "run");
  const write = (place: string, config: object) => {
    mkdirSync(join(run, place), { recursive: true });
    writeFileSync(join(run, place, "config.json"), JSON.stringify(config));
  };
  write(".", { out_dir: run, train: {} });
  for (const find of [resolveModel, originOf])
    await expect(find(run)).rejects.toThrow(/run is the folder of a run that has not finished/);
  for (const place of ["model", "merged"]) {
    write(place, { model_type: "llama" });
    for (const find of [resolveModel, originOf]) expect(await find(run)).toBe(join(run, place));
    expect(await resolveModel(join(run, "model"))).toBe(join(run, "model"));
  }
});
