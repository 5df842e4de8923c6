import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { nextTokens } from "../bench/verify/models.ts";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice, openReference } from "../kernels/index.ts";
import { createModel, decoderConfig, parseModelConfig, readModelConfig } from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import { loadModel, loadWeights, readTensors, saveModel } from "../models/formats/hf_directory.ts";
import {
  type HostTensor,
  hostTensor,
  readModelWeights,
  readSafetensors,
  toFloat32,
  toInt32,
} from "../models/formats/safetensors.ts";
import { GPT2LMHeadModel } from "../models/gpt2.ts";
import { gpt2Overrides, parseGpt2Config } from "../models/gpt2_config.ts";
import { parseLlamaConfig } from "../models/llama_config.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { argmax } from "../models/sampling.ts";
import { type GenerateOptions, TextGenerator } from "../serve/text/text_generator.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/index.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { scheduleFactor } from "../train/optimizers/schedules.ts";
import { parsePretrainConfig, pretrain } from "../train/recipes/pretrain.ts";
import { parseOverrides } from "../train/settings/load.ts";
import { Trainer } from "../train/trainer.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const data = new URL("../../shared/data/", import.meta.url).pathname;
const hasData = existsSync(join(data, "models/fake_gpt2"));
const folder = mkdtempSync(join(tmpdir(), "kiln-gpt2-"));
afterAll(() => rmSync(folder, { recursive: true }));

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterEach(() => setDevice(gpu));

const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

async function load(path: string): Promise<CausalLM> {
  const model = createModel(decoderConfig(await readModelConfig(path), path));
  loadWeights(model, await readModelWeights(path));
  return model;
}

/** Logits [rows * length, vocab] of whole rows, each a document of its own. */
async function logitsOf(model: CausalLM, ids: ArrayLike<number>, rows = 1): Promise<Float32Array> {
  const shape = [rows, ids.length / rows];
  const logits = scope(() =>
    noGrad(() => {
      const positions = tensor(
        Array.from(ids, (_, i) => i % shape[1]),
        shape,
        "i32",
      );
      return model.logits(model.hidden(tensor(ids, shape, "i32"), { positions }));
    }),
  );
  const values = Float32Array.from(await logits.data());
  dispose(logits);
  return values;
}

function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let most = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i] - expected[i]);
    if (!(error <= most)) most = error;
  }
  return most;
}

const tiny = { model_type: "gpt2", vocab_size: 97, n_positions: 64, n_embd: 48, n_layer: 3, n_head: 4 };

describe("GPT-2 config", () => {
  it.each(["models/gpt2", "curves/gpt2"])("reads %s as transformers wrote it and writes it back", (name) => {
    const file = json(join(golden, name, "config.json"));
    const config = parseModelConfig(file);
    expect(config).toMatchObject({ ...tiny, n_inner: null, layer_norm_epsilon: 1e-5 });
    const written = new GPT2LMHeadModel(parseGpt2Config(file)).toHfConfig();
    const { transformers_version: _version, ...original } = file;
    for (const [key, value] of Object.entries(original)) {
      // What only the heads for classification use.
      if (!key.startsWith("summary_")) expect(written[key], key).toEqual(value);
    }
    expect(parseModelConfig(JSON.parse(JSON.stringify(written)))).toEqual(config);
  });

  it("fills in the defaults of transformers: the smallest published GPT-2", () => {
    expect(parseGpt2Config({ model_type: "gpt2" })).toMatchObject({
      vocab_size: 50257,
      n_positions: 1024,
      n_embd: 768,
      n_layer: 12,
      n_head: 12,
      n_inner: null,
      layer_norm_epsilon: 1e-5,
      resid_pdrop: 0.1,
      tie_word_embeddings: true,
      bos_token_id: 50256,
      eos_token_id: 50256,
    });
  });

  it.each<[string, object, string]>([
    ["another activation", { activation_function: "relu" }, 'activation_function is "relu"'],
    ["scores that are not scaled", { scale_attn_weights: false }, "scale_attn_weights is false"],
    [
      "scores scaled by layer",
      { scale_attn_by_inverse_layer_idx: true },
      "scale_attn_by_inverse_layer_idx is true",
    ],
    ["cross-attention", { add_cross_attention: true }, "add_cross_attention is true"],
    ["quantized weights", { quantization_config: { bits: 8 } }, "the weights are quantized"],
    ["heads that do not divide the width", { n_head: 5 }, "n_embd 48 is not a multiple of n_head 5"],
    ["text for a number", { n_layer: "three" }, 'n_layer is "three"; expected a number'],
    ["another model", { model_type: "gptj" }, 'model_type is "gptj"; kiln can load llama, gpt2'],
  ])("refuses %s in one line", (_label, change, message) => {
    const attempt = () => parseModelConfig({ ...tiny, ...change }, "m/config.json");
    expect(attempt).toThrow(KilnError);
    expect(attempt).toThrow(/^m\/config\.json: [^\n]*$/);
    expect(attempt).toThrow(message);
  });

  it("tells the architectures apart, and common names from those that GPT-2 does not have", () => {
    expect(() => parseLlamaConfig(tiny)).toThrow('model_type is "gpt2"; expected "llama"');
    expect(gpt2Overrides({ hidden_size: 32, num_hidden_layers: 1, vocab_size: 300 })).toEqual({
      n_embd: 32,
      n_layer: 1,
      vocab_size: 300,
    });
    expect(() => gpt2Overrides({ num_key_value_heads: 2 })).toThrow("a GPT-2 has no num_key_value_heads");
  });
});

describe("GPT-2 against transformers", () => {
  it("computes hidden states, logits, loss and every gradient (float64)", async () => {
    openReference();
    const path = join(golden, "models/gpt2");
    const expected = await readSafetensors(join(path, "expected.safetensors"));
    const input = expected.get("input_ids")!;
    const [rows, length] = input.shape as [number, number];
    const ids = toInt32(input);
    const model = await load(path);
    expect(largestError(await logitsOf(model, ids, rows), toFloat32(expected.get("logits")!))).toBeLessThan(
      1e-5,
    );
    const targets = nextTokens(toInt32(expected.get("labels")!), rows);
    const supervised = targets.filter((t) => t !== -100).length;
    const i32 = (values: ArrayLike<number>) => tensor(values, [rows, length], "i32");
    const positions = i32(ids.map((_, i) => i % length));
    const states: number[][] = [];
    for (const [i, state] of statesOf(model, i32(ids), positions).entries()) {
      states.push(Array.from(await state.data()));
      expect(largestError(states[i], toFloat32(expected.get(`hidden.${i}`)!))).toBeLessThan(1e-5);
    }
    expect(states).toHaveLength(model.shape.num_hidden_layers + 1);
    const loss = model.loss({ tokens: i32(ids), targets: i32(targets), positions });
    expect((await loss.item()) / supervised).toBeCloseTo(json(join(path, "expected.json")).loss, 5);
    const named = [...model.namedParameters()];
    const found = grads(
      loss,
      named.map(([, p]) => p),
    );
    for (const [i, [name]] of named.entries()) {
      const want = toFloat32(expected.get(`grad.${name}`)!);
      const got = Array.from(await found[i]!.data(), (v) => v / supervised);
      const largest = want.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      expect(largestError(got, want), name).toBeLessThan(1e-4 * largest);
    }
  });

  it("trains as the reference did, step by step (float64)", async () => {
    openReference();
    const path = join(golden, "curves/gpt2");
    const expected = json(join(path, "expected.json"));
    const batches = await readSafetensors(join(path, "batches.safetensors"));
    const model = await load(path);
    const optimizer = new AdamW(model.namedParameters(), {
      betas: expected.betas,
      eps: expected.eps,
      weightDecay: expected.weight_decay,
      decays: (_name, parameter) => parameter.rank >= 2,
    });
    const [rows, length] = batches.get("input_ids.0")!.shape as [number, number];
    const trainer = new Trainer(model, optimizer, { maxGradNorm: expected.clip, sequenceLength: length });
    const schedule = {
      name: "cosine",
      warmup_steps: expected.warmup,
      total_steps: expected.steps,
    } as const;
    for (let step = 0; step < 8; step++) {
      const tokens = toInt32(batches.get(`input_ids.${step}`)!);
      const targets = nextTokens(toInt32(batches.get(`labels.${step}`)!), rows);
      const { lossSum, gradNorm, supervised } = trainer.step(
        [
          {
            tokens,
            targets,
            positions: tokens.map((_, i) => i % length),
            segments: new Int32Array(tokens.length),
            bytes: tokens.length,
            supervised: targets.filter((t) => t !== -100).length,
          },
        ],
        expected.lr * scheduleFactor(schedule, step),
      );
      expect((await lossSum.item()) / supervised).toBeCloseTo(expected.losses[step], 4);
      expect(await gradNorm.item()).toBeCloseTo(expected.grad_norms[step], 4);
    }
  });

  it("loads old checkpoints: no prefix, buffers of the mask beside the weights", async () => {
    const path = join(golden, "models/gpt2");
    const expected = await readSafetensors(join(path, "expected.safetensors"));
    const old = new Map<string, HostTensor>();
    for (const [name, value] of await readModelWeights(path))
      old.set(name.replace("transformer.", ""), value);
    old.set("h.0.attn.bias", hostTensor("F32", [1, 1, 2, 2], new Float32Array(4)));
    old.set("h.0.attn.masked_bias", hostTensor("F32", [], new Float32Array(1)));
    const model = createModel(decoderConfig(await readModelConfig(path), path));
    loadWeights(model, old);
    const input = expected.get("input_ids")!;
    const logits = await logitsOf(model, toInt32(input), input.shape[0]);
    expect(largestError(logits, toFloat32(expected.get("logits")!))).toBeLessThan(1e-4);
    old.delete("h.2.mlp.c_fc.bias");
    expect(() => loadWeights(model, old)).toThrow(/no tensor transformer\.h\.2\.mlp\.c_fc\.bias/);
  });

  it.skipIf(!hasData)(
    "gives the logits and losses of two published test models (skipped: no ../shared/data)",
    async () => {
      const model = await load(join(data, "models/fake_gpt2"));
      for (const text of json(join(data, "reference/fake_gpt2_reference.json"))) {
        const logits = await logitsOf(model, text.ids);
        const width = model.shape.vocab_size;
        let loss = 0;
        for (let i = 0; i < text.ids.length; i++) {
          const row = logits.subarray(i * width, (i + 1) * width);
          expect(largestError(row.subarray(0, 8), text.logits_first8[i])).toBeLessThan(1e-5);
          const top = (text.top5_ids[i] as number[]).map((id) => row[id]);
          expect(largestError(top, text.top5_logits[i])).toBeLessThan(1e-5);
          expect(argmax(row)).toBe(text.top5_ids[i][0]);
          if (i + 1 === text.ids.length) continue;
          const sum = row.reduce((total, v) => total + Math.exp(v), 0);
          loss += (Math.log(sum) - row[text.ids[i + 1]]) / (text.ids.length - 1);
        }
        expect(loss).toBeCloseTo(text.loss, 4);
      }
      // A model saved without its head: names have no prefix.
      const bare = await load(join(data, "models/tiny_gpt2"));
      expect((await logitsOf(bare, [1, 2, 3])).every(Number.isFinite)).toBe(true);
    },
  );
});

/** The input of every block and the final hidden state. */
function statesOf(model: CausalLM, tokens: ReturnType<typeof tensor>, positions: ReturnType<typeof tensor>) {
  const states: ReturnType<typeof tensor>[] = [];
  noGrad(() => model.hidden(tokens, { positions }, (x) => states.push(x)));
  return states;
}

describe("GPT-2 in training and serving", () => {
  const special = { bos_token_id: 0, eos_token_id: 0 };
  const small = { ...tiny, ...special, vocab_size: 300, n_embd: 24, n_layer: 2, n_head: 2, n_inner: 40 };
  const fresh = (changes: object = {}) =>
    new GPT2LMHeadModel(parseGpt2Config({ ...small, ...changes })).init(5);

  it("starts from small normal weights, projections into the residual stream smaller, biases at zero", async () => {
    const model = fresh({ n_embd: 64, n_inner: null });
    for (const [name, parameter] of model.namedParameters()) {
      const values = Array.from(await parameter.data());
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const std = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
      const isNorm = /ln_\w\.weight$/.test(name);
      expect(Math.abs(mean - (isNorm ? 1 : 0)), name).toBeLessThan(2e-3);
      const expected = name.endsWith("bias") || isNorm ? 0 : name.includes("c_proj") ? 0.02 / 2 : 0.02;
      expect(Math.abs(std - expected), name).toBeLessThanOrEqual(0.06 * expected);
    }
  });

  it("gives packed documents the loss that each has alone (float64)", async () => {
    openReference();
    const model = fresh();
    const documents = [
      [7, 1, 250, 33, 8],
      [12, 12, 90],
      [4, 199, 3, 61, 5, 17],
    ];
    const lossOf = async (rows: number[][]) => {
      const tokens = rows.flat();
      const shape = [1, tokens.length];
      const i32 = (values: number[]) => tensor(values, shape, "i32");
      const loss = model.loss({
        tokens: i32(tokens),
        targets: i32(rows.flatMap((row) => [...row.slice(1), -100])),
        positions: i32(rows.flatMap((row) => [...row.keys()])),
        segments: i32(rows.flatMap((row, d) => row.map(() => d))),
      });
      return loss.item();
    };
    const alone = [];
    for (const document of documents) alone.push(await lossOf([document]));
    expect(await lossOf(documents)).toBeCloseTo(
      alone.reduce((a, b) => a + b, 0),
      9,
    );
  });

  it("generates through the paged cache what whole passes give, with the same bits in any batch", async () => {
    const model = fresh({ initializer_range: 0.4 });
    const prompts = [[5], [17, 201, 9, 33, 80, 2, 41], [260, 14, 14]];
    const generate = async (chosen: number[][]) => {
      const decoder = new PagedDecoder(model, {
        numBlocks: 20,
        blockSize: 4,
        maxSequences: 3,
        maxBlocksPerSequence: 5,
      });
      const rows = chosen.map((prompt) => [...prompt]);
      const bits: number[][] = rows.map(() => []);
      const done = rows.map(() => 0);
      for (let step = 0; step < 8; step++) {
        const logits = await decoder.forward(
          rows.map((row, r) => {
            const tokens = row.slice(done[r]);
            return {
              tokens,
              start: done[r],
              blockTable: [0, 1, 2, 3, 4].map((b) => 19 - 4 * b - r),
              rows: [tokens.length - 1],
            };
          }),
        );
        rows.forEach((row, r) => {
          done[r] = row.length;
          bits[r].push(...logits[r][0]);
          row.push(argmax(logits[r][0]));
        });
      }
      decoder.close();
      return { rows, bits };
    };
    const together = await generate(prompts);
    for (const [r, prompt] of prompts.entries()) {
      const alone = await generate([prompt]);
      expect(alone.bits[0]).toEqual(together.bits[r]);
      const row = together.rows[r];
      const logits = await logitsOf(model, row);
      const likeliest = row.map((_, i) => argmax(logits.subarray(i * 300, (i + 1) * 300)));
      expect(row.slice(prompt.length)).toEqual(likeliest.slice(prompt.length - 1, -1));
    }
    expect(new Set(together.rows.flat()).size).toBeGreaterThan(12);
  });

  it.each([true, false])("is the same after it was saved and loaded (tied head: %s)", async (tied) => {
    const stories = [...storyCorpus({ seed: 5, stories: 20 })];
    const tokenizer = new Tokenizer(
      trainBpe(stories, { vocab_size: 300, special_tokens: ["<|endoftext|>"] }),
    );
    const model = fresh({ tie_word_embeddings: tied, initializer_range: 0.4 });
    const path = join(folder, `saved-${tied}`);
    await saveModel(path, model, tokenizer);
    const loaded = await loadModel(path);
    expect(loaded.model).toBeInstanceOf(GPT2LMHeadModel);
    expect(loaded.model.toHfConfig()).toEqual(model.toHfConfig());
    const weights = await readTensors(loaded.model.namedParameters());
    expect(weights).toEqual(await readTensors(model.namedParameters()));
    const names = [...(await readModelWeights(join(golden, "models/gpt2"))).keys()];
    const expected = names.filter((name) => !name.includes(".h.2."));
    expect([...weights.keys()].sort()).toEqual([...expected, ...(tied ? [] : ["lm_head.weight"])].sort());
    const text = async (from: CausalLM) => {
      const generator = new TextGenerator(from, tokenizer, { maxSequences: 1 });
      const answer = await generator.complete("Once upon", { temperature: 0, max_tokens: 12 });
      generator.close();
      return answer;
    };
    expect(await text(loaded.model)).toBe(await text(model));
  });

  it("is what kiln train pretrain trains where model.config is a GPT-2's, and resumes", async () => {
    const shape = join(folder, "shape.json");
    writeFileSync(shape, JSON.stringify({ ...small, attn_pdrop: 0.1, resid_pdrop: 0, embd_pdrop: 0 }));
    const lines: string[] = [];
    const run = (settings: string[]) => {
      const fixed = [
        `model.config=${shape}`,
        `out_dir=${join(folder, "run")}`,
        "data.corpus.stories=20",
        "tokenizer.vocab_size=300",
        "train.batch_size=2",
        "train.sequence_length=32",
        "train.warmup_steps=1",
        "sample.max_tokens=4",
        "train.steps=4",
      ];
      const config = parsePretrainConfig("{}", "test", parseOverrides([...fixed, ...settings]));
      const makeSampler = (model: CausalLM, tokenizer: Tokenizer) => {
        const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
        return (prompt: string | readonly number[], options: GenerateOptions) =>
          generator.complete(prompt, options);
      };
      return pretrain({ config, makeSampler, say: (line) => lines.push(line) });
    };
    await expect(run(["train.sequence_length=65"])).rejects.toThrow(/65 is longer than the model's 64/);
    await expect(run(["model.num_key_value_heads=1"])).rejects.toThrow(/a GPT-2 has no num_key_value_heads/);
    const first = await run(["model.num_hidden_layers=1"]);
    expect(lines.join("\n")).toMatch(/1 layers of width 24\ndropout in training: attn_pdrop 0.1$/m);
    expect(first.metrics!.validation_loss).toBeLessThan(6);
    const { model } = await loadModel(first.modelDir);
    expect(model.toHfConfig()).toMatchObject({ model_type: "gpt2", n_layer: 1, vocab_size: 300 });
    const again = await run(["model.num_hidden_layers=1", "resume=true"]);
    expect(again.metrics!.validation_loss).toBe(first.metrics!.validation_loss);
    expect(await readTensors(again.model.namedParameters())).toEqual(
      await readTensors(model.namedParameters()),
    );
  });
});
