import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import {
  architectures,
  createModel,
  type ModelType,
  modelTypeOf,
  parseModelConfig,
  shapeOf,
} from "../models/architectures.ts";
import { BertEncoder } from "../models/bert.ts";
import { EncoderDecoder } from "../models/encoder_decoder.ts";
import { loadModel, loadWeights, readTensors, saveModel } from "../models/formats/hf_directory.ts";
import {
  type HostTensor,
  hostTensor,
  withModelWeights,
  writeSafetensors,
} from "../models/formats/safetensors.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { type LlamaConfig, tinyllmConfig } from "../models/llama_config.ts";
import { decoderSettings } from "../train/model_settings.ts";
import { parsePretrainConfig } from "../train/recipes/pretrain.ts";
import { parseOverrides } from "../train/settings/load.ts";
import { fakeTokenizer } from "./serve_fake.ts";

/** A checkpoint that does not fit its config, or is damaged, is refused and not answered with. */
const folder = mkdtempSync(join(tmpdir(), "kiln-checkpoint-"));
const tiny = (layers: number, change: object = {}) =>
  tinyllmConfig({
    vocab_size: 300,
    hidden_size: 16,
    num_attention_heads: 2,
    num_hidden_layers: layers,
    ...change,
  });
let weights: Map<string, HostTensor>;
const norm = "model.layers.1.input_layernorm.weight";

beforeAll(async () => {
  setDevice(new ReferenceDevice());
  weights = await readTensors(new LlamaForCausalLM(tiny(2)).init(1).namedParameters());
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

/** Loads the checkpoint with a tensor put in place or taken out. */
function load(change: Record<string, HostTensor | null>, config = tiny(2), dtype: "f32" | "f16" = "f32") {
  const changed = new Map(weights);
  for (const [name, tensor] of Object.entries(change)) {
    if (tensor === null) changed.delete(name);
    else changed.set(name, tensor);
  }
  loadWeights(createModel(config, dtype), changed);
}
const floats = (shape: number[], value: (i: number) => number) =>
  hostTensor(
    "F32",
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => value(i)),
  );

describe("loadWeights", () => {
  it("takes a checkpoint that fits, buffers of old versions and the head of a tied model among it", () => {
    const frequencies = floats([8], () => 1);
    load({});
    load({ "model.layers.0.self_attn.rotary_emb.inv_freq": frequencies, "rotary_emb.inv_freq": frequencies });
    load({ "lm_head.weight": weights.get("model.embed_tokens.weight")! });
  });

  const odd: [string, () => void, RegExp][] = [
    [
      "a checkpoint of more layers than the config's",
      () => load({}, tiny(1)),
      /has "model\.layers\.1\.\S*", for which the model of config\.json has no place/,
    ],
    [
      "biases that the config does not mention",
      () => load({ "model.layers.0.self_attn.q_proj.bias": floats([16], () => 1) }),
      /has "model\.layers\.0\.self_attn\.q_proj\.bias", for which/,
    ],
    [
      "quantized matrices under their usual names",
      () => load({ "model.layers.0.mlp.up_proj.qweight": hostTensor("I32", [1], new Int32Array(1)) }),
      /qweight", for which/,
    ],
    ["a missing tensor", () => load({ [norm]: null }), /has no tensor model\.layers\.1\.input_layernorm/],
    ["another shape", () => load({ [norm]: floats([8], () => 1) }), /layernorm\.weight is \[8\], the config/],
    [
      "a tied head that differs",
      () => load({ "lm_head.weight": floats([300, 16], () => 1) }),
      /lm_head\.weight that differs from "model\.embed_tokens\.weight".*tie_word_embeddings/,
    ],
    ["an untied model without a head", () => load({}, tiny(2, { tie_word_embeddings: false })), /lm_head/],
    [
      "integer weights",
      () => load({ [norm]: hostTensor("I32", [16], new Int32Array(16).fill(1)) }),
      /holds "model\.layers\.1\.input_layernorm\.weight" as I32; save/,
    ],
    [
      "one NaN",
      () => load({ [norm]: floats([16], (i) => (i === 7 ? Number.NaN : 1)) }),
      /holds NaN in "model\.layers\.1\.input_layernorm\.weight" \(value 7\)/,
    ],
    [
      "an infinity",
      () => load({ [norm]: floats([16], (i) => (i === 15 ? -Infinity : 1)) }),
      /holds -Infinity in .* \(value 15\)/,
    ],
    [
      "a double that is too large",
      () => load({ [norm]: hostTensor("F64", [16], new Float64Array(16).fill(1e39)) }),
      /holds Infinity/,
    ],
    [
      "what f16 cannot hold, where matrices are f16",
      () => load({ "model.embed_tokens.weight": floats([300, 16], () => 65520) }, tiny(2), "f16"),
      /holds 65520 in "model\.embed_tokens\.weight", which f16 cannot; use --dtype f32/,
    ],
  ];
  it("reads a file tensor by tensor, a twin of another one too", async () => {
    const twin = async (tensor: HostTensor) => {
      const changed = new Map([...weights, ["lm_head.weight", tensor] as const]);
      await writeSafetensors(join(folder, "twin/model.safetensors"), changed);
      return withModelWeights(join(folder, "twin"), (read) => {
        const model = createModel(tiny(2), "f32");
        loadWeights(model, read);
        return readTensors(model.namedParameters());
      });
    };
    expect(await twin(weights.get("model.embed_tokens.weight")!)).toEqual(weights);
    await expect(twin(floats([300, 16], () => 1))).rejects.toThrow(/lm_head\.weight that differs from/);
  });

  it.each(odd)("refuses %s by name, in one line", (_, attempt, message) => {
    expect(attempt).toThrow(KilnError);
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(/^[^\n]*$/);
  });

  it("keeps the largest numbers of f16 and f32", () => {
    load({ "model.embed_tokens.weight": floats([300, 16], () => -65519) }, tiny(2), "f16");
    load({ [norm]: floats([16], () => 3.4028234663852886e38) });
  });
});

it("loadModel refuses the same of a folder", async () => {
  const path = join(folder, "model");
  await saveModel(path, new LlamaForCausalLM(tiny(2)).init(1), fakeTokenizer());
  expect((await loadModel(path)).model.shape.num_hidden_layers).toBe(2);
  const generation = JSON.parse(readFileSync(join(path, "generation_config.json"), "utf8"));
  expect(generation).toEqual({ bos_token_id: 1, eos_token_id: 2 });
  await writeSafetensors(join(path, "model.safetensors"), weights);
  writeFileSync(join(path, "config.json"), JSON.stringify(new LlamaForCausalLM(tiny(1)).toHfConfig()));
  await expect(loadModel(path)).rejects.toThrow(/"model\.layers\.1\..*no place/);
});

it("loadModel refuses a stop token outside the vocabulary", async () => {
  const path = join(folder, "endless");
  await saveModel(path, new LlamaForCausalLM(tiny(1)).init(1), fakeTokenizer());
  const file = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
  for (const eos_token_id of [300, [2, 99999]]) {
    writeFileSync(join(path, "config.json"), JSON.stringify({ ...file, eos_token_id }));
    await expect(loadModel(path)).rejects.toThrow(
      /eos_token_id (300|99999), but the vocabulary has 300 tokens/,
    );
  }
});

it("a config.json with more layers than the file has tensors is refused before the model is made", async () => {
  const path = join(folder, "deep");
  await saveModel(path, new LlamaForCausalLM(tiny(1)).init(1), fakeTokenizer());
  const file = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
  writeFileSync(join(path, "config.json"), JSON.stringify({ ...file, num_hidden_layers: 1000 }));
  await expect(loadModel(path)).rejects.toThrow(
    /deep: the checkpoint has \d+ tensors, config\.json 1000 layers/,
  );
});

it("names the model types that a config.json may have, and no rows of its own table", () => {
  const message = "kiln can load llama, gpt2, bert";
  for (const model_type of ["mistral", "gpt2_classifier"])
    expect(() => parseModelConfig({ model_type }), model_type).toThrow(message);
});

describe("every architecture of the table", () => {
  const encoder = { vocab_size: 40, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
  const answerer = {
    vocab_size: 40,
    d_model: 16,
    encoder_attention_heads: 2,
    decoder_attention_heads: 4,
    encoder_layers: 1,
    decoder_layers: 2,
  };
  const small = {
    llama: { vocab_size: 40, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 },
    gpt2: { vocab_size: 40, n_embd: 16, n_layer: 2, n_head: 2, n_positions: 32 },
    gpt2_classifier: {
      vocab_size: 40,
      n_embd: 16,
      n_layer: 2,
      n_head: 2,
      n_positions: 32,
      model_type: "gpt2",
      architectures: ["GPT2ForSequenceClassification"],
    },
    bert: { ...encoder, architectures: ["BertForMaskedLM"] },
    roberta: {
      ...encoder,
      architectures: ["RobertaForSequenceClassification"],
      id2label: { 0: "b", 1: "a" },
    },
    distilbert: { vocab_size: 40, dim: 16, n_layers: 2, n_heads: 2, problem_type: "regression" },
    "deberta-v2": {
      ...{ ...encoder, architectures: ["DebertaV2ForMaskedLM"], legacy: false },
      ...{ relative_attention: true, pos_att_type: "p2c|c2p", conv_kernel_size: 3 },
    },
    blenderbot: answerer,
    "blenderbot-small": { ...answerer, pad_token_id: 3 },
  } satisfies Record<ModelType, object>;
  it.each(Object.keys(architectures) as ModelType[])(
    "%s writes the config.json that it reads",
    (model_type) => {
      const config = parseModelConfig({
        ...architectures[model_type].overrides({ intermediate_size: 48, max_position_embeddings: 32 }),
        model_type,
        ...small[model_type],
      });
      const model = createModel(config).init(1);
      const written = model.toHfConfig();
      expect(architectures[model_type].classNames).toEqual(
        expect.arrayContaining(written.architectures as []),
      );
      expect(parseModelConfig(JSON.parse(JSON.stringify(written)))).toEqual(config);
      expect(shapeOf(config)).toMatchObject({ hidden_size: 16, max_position_embeddings: 32 });
      // Ids name tokens and rates are shares; every other whole number is a size.
      const whole = Object.entries(config).flatMap(([key, value]) => (Number.isInteger(value) ? [key] : []));
      const sizes = whole.filter((key) => !/_id$|dropout|pdrop/.test(key));
      if (architectures[model_type].kind === "encoder") sizes.push("num_labels");
      for (const key of sizes)
        expect(() => parseModelConfig({ ...written, id2label: null, [key]: 1e9 }), key).toThrow(
          /^config\.json: [^\n]*$/,
        );
      expect(modelTypeOf({ architectures: written.architectures })).toBe(model_type);
      const residual = [...model.namedParameters()].filter(([, parameter]) => parameter.residual);
      expect(residual).toHaveLength(
        model instanceof BertEncoder || model instanceof EncoderDecoder
          ? 0
          : 2 * model.shape.num_hidden_layers,
      );
      for (const [name, original] of Object.entries(model.checkpointNames.tied)) {
        expect(model.namedParameters().has(name)).toBe(written.tie_word_embeddings === false);
        expect(model.namedParameters().has(original)).toBe(true);
      }
    },
  );
});

it("training from a config.json takes another rope_theta than the file's, in whichever spelling", async () => {
  const path = join(folder, "shape.json");
  const linear = { rope_parameters: { rope_type: "linear" as const, rope_theta: 10000, factor: 2 } };
  writeFileSync(path, JSON.stringify(new LlamaForCausalLM(tiny(2, linear)).toHfConfig()));
  const shape = async (...set: string[]) => {
    const config = parsePretrainConfig("", "test", parseOverrides([`model.config=${path}`, ...set]));
    return (await decoderSettings(config, fakeTokenizer(), null)) as LlamaConfig;
  };
  expect((await shape()).rope_parameters).toEqual(linear.rope_parameters);
  const changed = { rope_type: "default", rope_theta: 500000 };
  expect((await shape("model.rope_theta=500000")).rope_parameters).toEqual(changed);
});
