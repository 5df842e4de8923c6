import { beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { seedWords } from "../core/random.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { attention, mul, openDevice, sum } from "../kernels/index.ts";
import { createModel } from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import { parseGpt2Config } from "../models/gpt2_config.ts";
import { parseLlamaConfig } from "../models/llama_config.ts";
import { type DropoutRates, explicitAttention, normalValues, PassDropout } from "../nn/index.ts";
import type { Batch } from "../train/data/index.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";
import { toyRuns } from "./support/train_toy.ts";

/** Dropout of whole models in training; the op itself is in the op suite. */
beforeAll(async () => void (await openDevice()));

const key = (step: number, micro = 0) => tensor([...seedWords(5), step, micro], [4], "u32");
const none: DropoutRates = { attention: 0, residual: 0, embedding: 0 };

describe("attention with dropout", () => {
  const [batch, heads, groups, length, width] = [2, 4, 2, 9, 8] as const;
  const make = (name: string, count: number) =>
    tensor(normalValues(batch * count * length * width, 3, name), [
      batch,
      count,
      length,
      width,
    ]).requireGrad();
  const rows = (ids: number[]) => tensor(ids, [batch, length], "i32");
  const segments = () => rows([0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
  const positions = () => rows([0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
  const heads3 = () => [make("q", heads), make("k", groups), make("v", groups)] as [Tensor, Tensor, Tensor];
  const dropped = (parts: readonly [Tensor, Tensor, Tensor], rate: number, step: number, causal = true) =>
    explicitAttention(parts, {
      dropout: new PassDropout(key(step), { ...none, attention: rate }),
      positions: positions(),
      segments: segments(),
      causal,
    });

  it.each([true, false])(
    "that drops nothing is attention, and so are its gradients, causal: %s",
    async (causal) => {
      const parts = heads3();
      const upstream = make("u", heads);
      const both = [
        attention(...parts, { causal, segments: segments() }),
        // So small a rate that no number of 24 bits is below it, but zero.
        dropped(parts, 1e-12, 1, causal),
      ];
      const [expected, found] = await Promise.all(
        both.map(async (out) => {
          const gradients = grads(sum(mul(out, upstream)), parts);
          return Promise.all([out, ...gradients].map(async (t) => [...(await t!.data())]));
        }),
      );
      for (const [i, values] of expected!.entries()) {
        const largest = Math.max(...values.map((value, j) => Math.abs(value - found![i][j])));
        expect(largest, `part ${i}`).toBeLessThan(2e-6);
      }
    },
  );

  it("that drops nothing is attention to another sequence, whose keys a mask hides", async () => {
    const of = (name: string, [b, h, t]: number[]) =>
      tensor(normalValues(b * h * t * width, 3, name), [b, h, t, width]).requireGrad();
    const parts = [of("q", [2, 4, 5]), of("k", [2, 2, 3]), of("v", [2, 2, 3])] as const;
    const mask = tensor([1, 1, 1, 1, 0, 1], [2, 1, 1, 3], "bool");
    const rates = { ...none, attention: 1e-12 };
    const context = { causal: false, mask, positions: positions(), dropout: new PassDropout(key(1), rates) };
    const [expected, found] = await Promise.all(
      [attention(...parts, { causal: false, mask }), explicitAttention(parts, context)].map(async (out) => {
        const gradients = grads(sum(mul(out, of("u", [2, 4, 5]))), [...parts]);
        return Promise.all([out, ...gradients].map(async (t) => [...(await t!.data())]));
      }),
    );
    for (const [i, values] of expected.entries())
      values.forEach((value, j) => void expect(found[i][j], `part ${i}`).toBeCloseTo(value, 5));
  });

  it("is attention in the mean, and not for one mask", async () => {
    const parts = heads3();
    const expected = await attention(...parts, { causal: true, segments: segments() }).data();
    const draws = 400;
    const mean = new Float64Array(expected.length);
    const squares = new Float64Array(expected.length);
    for (let step = 0; step < draws; step++) {
      const values = await dropped(parts, 0.25, step).data();
      for (let i = 0; i < mean.length; i++) {
        mean[i] += values[i] / draws;
        squares[i] += values[i] ** 2 / draws;
      }
    }
    // Each element within five standard errors, and together as far off as chance has it.
    let chi = 0;
    let varied = 0;
    for (let i = 0; i < mean.length; i++) {
      const error = Math.sqrt((squares[i] - mean[i] ** 2) / draws);
      expect(Math.abs(mean[i] - expected[i])).toBeLessThan(5 * error + 1e-6);
      if (error > 1e-6) chi += ((mean[i] - expected[i]) / error) ** 2;
      if (error > 1e-6) varied++;
    }
    expect(varied).toBe(mean.length);
    expect(chi / varied).toBeGreaterThan(0.7);
    expect(chi / varied).toBeLessThan(1.3);
  });
});

const length = 16;
const rates = { attn_pdrop: 0.2, resid_pdrop: 0.3, embd_pdrop: 0.25 };
const gpt2 = (changes = {}) =>
  createModel(
    parseGpt2Config({
      model_type: "gpt2",
      vocab_size: 50,
      n_embd: 16,
      n_layer: 2,
      n_head: 2,
      n_positions: 32,
      initializer_range: 0.3,
      ...rates,
      ...changes,
    }),
  ).init(1);
const llama = () =>
  createModel(
    parseLlamaConfig({
      vocab_size: 50,
      hidden_size: 16,
      intermediate_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      initializer_range: 0.3,
      attention_dropout: 0.2,
      resid_pdrop: 0.3,
      embd_pdrop: 0.25,
    }),
  ).init(1);

function batchOf(rows: number): Batch {
  const column = (value: (i: number) => number) =>
    Int32Array.from({ length: rows * length }, (_, i) => value(i));
  return {
    tokens: column((i) => (i * 17) % 50),
    targets: column((i) => (i * 17 + 17) % 50),
    positions: column((i) => i % length),
    segments: column(() => 0),
    bytes: rows * length,
    supervised: rows * length,
  };
}
const uploaded = (batch: Batch) => {
  const at = (values: Int32Array) => tensor(values, [values.length / length, length], "i32");
  const { tokens, targets, positions, segments } = batch;
  return { tokens: at(tokens), targets: at(targets), positions: at(positions), segments: at(segments) };
};

describe("a model with dropout", () => {
  it("drops its share of embeddings and branches, other ones in each place, and scales what is left", async () => {
    const model = gpt2();
    const batch = uploaded(batchOf(8));
    const inputs = async (changes: Partial<DropoutRates>, step = 1) => {
      const seen: Tensor[] = [];
      const dropout = new PassDropout(key(step), { ...none, ...changes });
      model.hidden(batch.tokens, { ...batch, dropout }, (x) => seen.push(x));
      return Promise.all(seen.map(async (x) => [...(await x.data())]));
    };
    const plain = await inputs({});
    const [embedded] = await inputs({ embedding: 0.25 });
    const kept = embedded!.map((value, i) => value / plain[0][i]);
    for (const ratio of kept) expect(Math.min(Math.abs(ratio), Math.abs(ratio - 4 / 3))).toBeLessThan(1e-5);
    // 2,048 values, standard deviation of the share 0.0096.
    const share = kept.filter((ratio) => ratio === 0).length / kept.length;
    expect(Math.abs(share - 0.25)).toBeLessThan(0.05);
    // What the first block adds is what both of its branches add: neither 0 nor everything; another key, others.
    const [[, first], [, again], [, other]] = await Promise.all([
      inputs({ residual: 0.3 }),
      inputs({ residual: 0.3 }),
      inputs({ residual: 0.3 }, 2),
    ]);
    expect(again).toEqual(first);
    const same = first!.filter((value, i) => value === other![i]).length / first!.length;
    const untouched = first!.filter((value, i) => value === plain[0][i]).length / first!.length;
    // Both branches dropped: 0.3 squared, if their masks are independent. Equal with both keys: attention's mask is
    // equal, whose branch reads the same in both, and the MLP's is dropped twice.
    expect(Math.abs(untouched - 0.09)).toBeLessThan(0.03);
    expect(Math.abs(same - (0.3 ** 2 + 0.7 ** 2) * 0.3 ** 2)).toBeLessThan(0.02);
  });

  it.each<[string, () => CausalLM]>([
    ["GPT-2", gpt2],
    ["Llama", llama],
  ])(
    "%s: replayed updates draw masks of their step and micro-batch, evaluation and serving none",
    async (_n, make) => {
      const model = make();
      const trainer = new Trainer(model, new AdamW(model.trainedParameters(), { weightDecay: 0 }), {
        maxGradNorm: 1,
        sequenceLength: length,
        dropoutSeed: 5,
      });
      const batch = batchOf(2);
      const on = uploaded(batch);
      const lossWith = async (dropoutKey?: Tensor) => model.loss({ ...on, dropoutKey }).item();
      const plain = await lossWith();
      expect(await trainer.evaluate(batch).item()).toBeCloseTo(plain, 3);
      const seen: number[] = [];
      for (let step = 1; step <= 4; step++) {
        // At a rate of 0 the weights stay.
        const result = trainer.step([batch], 0);
        seen.push(await result.lossSum.item());
        expect(seen.at(-1)).toBeCloseTo(await lossWith(key(step)), 3);
      }
      expect(new Set(seen.map((loss) => loss.toFixed(2))).size).toBe(4);
      for (const loss of seen) expect(Math.abs(loss - plain)).toBeGreaterThan(1e-2);
      const cut = trainer.step([batch, batch], 0);
      const both = (await lossWith(key(5, 0))) + (await lossWith(key(5, 1)));
      expect(await cut.lossSum.item()).toBeCloseTo(both, 2);
      expect(await trainer.evaluate(batch).item()).toBeCloseTo(plain, 3);
    },
  );

  it("without a rate above zero takes no key: the same step as ever", async () => {
    const losses = await Promise.all(
      [5, undefined].map(async (dropoutSeed) => {
        const model = gpt2({ attn_pdrop: 0, resid_pdrop: 0, embd_pdrop: 0 });
        const optimizer = new AdamW(model.namedParameters());
        const options = { maxGradNorm: 1, sequenceLength: length, dropoutSeed };
        const trainer = new Trainer(model, optimizer, options);
        const seen = [];
        for (let i = 0; i < 3; i++) seen.push(await trainer.step([batchOf(2)], 1e-2).lossSum.item());
        return seen;
      }),
    );
    expect(losses[0]).toEqual(losses[1]);
  });
});

describe("a run with dropout", () => {
  const { train, resume } = toyRuns();

  it("resumes bit for bit, says its rates, and may change them by name", async () => {
    const settings = [
      "model.preset=gpt2",
      "model.dropout=0.1",
      "model.embd_pdrop=0.2",
      "train.schedule=constant",
      "train.gradient_accumulation_steps=2",
      "checkpoint.every=2",
    ];
    const whole = await train("whole", ...settings, "train.steps=4");
    expect(whole.text).toContain("dropout in training: resid_pdrop 0.1, embd_pdrop 0.2, attn_pdrop 0.1");
    await train("cut", ...settings, "train.steps=2");
    expect((await resume("cut", "train.steps=4")).weights).toBe(whole.weights);
    const without = await train("without", ...settings.slice(3), "model.preset=gpt2", "train.steps=4");
    expect(without.weights).not.toBe(whole.weights);
    const changed = await resume("cut", "train.steps=6", "model.resid_pdrop=0");
    expect(changed.text).toMatch(/changed from here on: .*model.resid_pdrop 0.1 -> 0/);
    const tiny = await train("tiny", "model.dropout=0.1", "train.steps=2");
    expect(tiny.text).toMatch(/dropout in training: attention_dropout 0.1, resid_pdrop 0.1, embd_pdrop 0.1/);
    expect(tiny.model.toHfConfig()).toMatchObject({ attention_dropout: 0.1 });
  });
});
