import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { tensor } from "../core/tensor.ts";
import type { Encoder } from "../models/encoder.ts";
import { createModel, fromPretrained, parseModelConfig, saveModel, tinyllmConfig } from "../models/index.ts";
import { rowsOfOne, uploadRows } from "../models/text_rows.ts";
import { klDivLoss } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { maskTokens } from "../train/data/index.ts";
import { ClassifierDistilObjective, DistilObjective } from "../train/losses/distil.ts";
import { recipe } from "../train/recipes/distil.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";
import { studentOf } from "../train/student.ts";
import { toyRuns } from "./support/train_toy.ts";

const { place } = toyRuns();

async function distil(name: string, ...own: string[]) {
  const config = await loadSettings(recipe, null, parseOverrides([`out_dir=${place(name)}`, ...own]));
  const lines: string[] = [];
  const say = (line: string) => void lines.push(line);
  const { metrics, test, model } = await run(recipe, { config, makeSampler: () => async () => "", say });
  const weights = readFileSync(join(place(name), "model/model.safetensors")).toString("base64");
  const log = readMetrics(join(place(name), "log.jsonl")) as Record<string, number>[];
  const losses = log.flatMap(({ loss }) => loss ?? []);
  const softLosses = log.flatMap(({ soft_loss }) => soft_loss ?? []);
  return {
    metrics: metrics as Record<string, number>,
    test,
    model,
    weights,
    losses,
    softLosses,
    said: lines.join("\n"),
  };
}

const loop = [
  ...["train.sequence_length=32", "train.batch_size=2", "train.warmup_steps=0", "train.schedule=constant"],
  ...["data.corpus.stories=40", "data.validation_fraction=0.1", "train.learning_rate=0.003"],
];

const special_tokens = ["[PAD]", "[MASK]", "<|endoftext|>"];
const json = trainBpe(["once upon a time there was a little fox"], { vocab_size: 280, special_tokens });
const tokenizer = new Tokenizer(json, {
  tokenizer_config: { eos_token: "<|endoftext|>", mask_token: "[MASK]", pad_token: "[PAD]" },
});
const vocab_size = tokenizer.vocabSize;

it("a decoder teaches a student with half its layers to say what it says", async () => {
  const sizes = {
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 32,
  };
  const config = tinyllmConfig({ ...sizes, vocab_size, initializer_range: 0.2 });
  await saveModel(place("teacher"), createModel(config).init(3), tokenizer);
  const settings = [...loop, `model.init_from=${place("teacher")}`, "distil.hard_weight=0", "train.steps=40"];
  const { metrics, model, softLosses, said } = await distil(
    "student",
    ...settings,
    "eval.every=1",
    "eval.tokens=64",
  );
  expect(said).toMatch(/student: 1 of the 2 layers/);
  expect(model.shape.num_hidden_layers).toBe(1);
  expect(metrics.validation_loss).toBeCloseTo(5 * metrics.soft_loss + metrics.hidden_loss, 3);
  // A teacher with random layers is not learned quickly.
  expect(softLosses[39]).toBeLessThan(0.75 * softLosses[0]);
});

describe("a masked language model", () => {
  beforeAll(async () => {
    const config = parseModelConfig({
      ...{
        model_type: "distilbert",
        architectures: ["DistilBertForMaskedLM"],
        vocab_size,
      },
      ...{
        dim: 16,
        n_layers: 3,
        n_heads: 2,
        hidden_dim: 32,
        max_position_embeddings: 32,
        initializer_range: 0.3,
        dropout: 0,
        attention_dropout: 0,
      },
    });
    await saveModel(place("masked"), createModel(config).init(5), tokenizer);
  });
  const settings = () => [...loop, `model.init_from=${place("masked")}`];

  it("starts its student with its first and last layers, and the student resumes bit for bit", async () => {
    const whole = await distil("whole", ...settings(), "train.steps=4");
    expect(whole.losses[3]).toBeLessThan(whole.losses[0]);
    await distil("parts", ...settings(), "train.steps=2");
    const parts = await distil("parts", "resume=true", "train.steps=4");
    expect(parts.losses).toEqual(whole.losses);
    expect(parts.weights).toBe(whole.weights);
    const teacher = (await fromPretrained(place("masked"))).model as Encoder;
    const student = await studentOf(teacher);
    const of = async (model: typeof student | typeof teacher, layer: number) => {
      const name = `distilbert.transformer.layer.${layer}.ffn.lin1.weight`;
      return Array.from(await model.namedParameters().get(name)!.data());
    };
    expect(await of(student, 1)).toEqual(await of(teacher, 2));
    await expect(
      distil("class-text", ...loop, `model.init_from=${place("masked")}`, "data.label=label"),
    ).rejects.toThrow(/data\.label is for a teacher that classifies texts; leave it out/);
  });

  it("accumulated micro-batches are one batch, and recomputed blocks are kept ones", async () => {
    const few = ["train.steps=2", "distil.divergence=reverse"];
    const once = await distil("once", ...settings(), ...few, "train.batch_size=4");
    const twice = await distil("twice", ...settings(), ...few, "train.gradient_accumulation_steps=2");
    const again = await distil(
      "again",
      ...settings(),
      ...few,
      "train.batch_size=4",
      "train.gradient_checkpointing=true",
    );
    once.losses.forEach((loss, i) => {
      expect(twice.losses[i]).toBeCloseTo(loss, 4);
      expect(again.losses[i]).toBeCloseTo(loss, 4);
    });
  });

  it("is masked as BERT: 15% of the places, 80% of them by the mask token, 10% by others, the rest as they are", () => {
    const tokens = new Int32Array(64 * 512).fill(7);
    const targets = tokens.map((_, i) => (i % 8 === 7 ? -100 : 7));
    const batch = { tokens, targets, positions: tokens, segments: tokens, bytes: 0, supervised: 0 };
    const options = { seed: 3, share: 0.15, maskId: 1, vocabSize: 300 };
    const masked = maskTokens(batch, 10, 512, options);
    const chosen = [...masked.targets.keys()].filter((i) => masked.targets[i] !== -100);
    expect(chosen.every((i) => i % 8 !== 7)).toBe(true);
    expect(chosen.length / (tokens.length * (7 / 8))).toBeCloseTo(0.15, 2);
    const share = (is: (id: number) => boolean) =>
      chosen.filter((i) => is(masked.tokens[i])).length / chosen.length;
    expect(Math.abs(share((id) => id === 1) - 0.8)).toBeLessThan(0.02);
    expect(Math.abs(share((id) => id === 7) - 0.1)).toBeLessThan(0.02);
    expect(maskTokens(batch, 10, 512, options)).toEqual(masked);
    // A row's masks do not depend on the batch that it is in.
    const half = <T extends Int32Array>(values: T) => values.slice(32 * 512);
    const second = { ...batch, tokens: half(tokens), targets: half(targets) };
    expect(maskTokens(second, 42, 512, options).tokens).toEqual(half(masked.tokens));
  });
});

it("the soft loss is klDivLoss of the logits, the hidden loss 1 - cos; places that do not count have none", async () => {
  const config = { model_type: "gpt2", n_embd: 8, n_layer: 1, n_head: 2, n_positions: 8, vocab_size: 11 };
  const parsed = parseModelConfig({ ...config, initializer_range: 0.5 });
  const make = (seed: number) =>
    createModel(parsed).init(seed) as never as import("../models/index.ts").CausalLM;
  const [student, teacher] = [make(1), make(2)];
  const row = (values: number[]) => tensor(Int32Array.from(values), [1, 4], "i32");
  const batch = {
    tokens: row([1, 2, 3, 4]),
    targets: row([2, 3, 4, -100]),
    positions: row([0, 1, 2, 3]),
    segments: row([0, 0, 0, 0]),
  };
  const weights = { soft_weight: 1, hard_weight: 1, hidden_weight: 1 };
  const objective = new DistilObjective(student, teacher, {
    ...weights,
    temperature: 3,
    divergence: "forward",
  });
  const counted = tensor([1, 1, 1, 0], [1, 4]);
  const [, soft, hard, hidden] = await objective.metrics({ ...batch, counted }).data();
  const states = [student, teacher].map((model) => model.hidden(batch.tokens, batch));
  const [said, taught] = [student, teacher].map((model, i) =>
    model.logits(states[i]).narrow(1, 0, 3).reshape([3, 11]),
  );
  expect(soft).toBeCloseTo(3 * (await klDivLoss(said, taught, 3).item()), 4);
  expect(hard).toBeCloseTo(await student.loss(batch).item(), 4);
  const [a, b] = await Promise.all(states.map((state) => state.data()));
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>, t: number) =>
    Array.from({ length: 8 }, (_, i) => x[8 * t + i] * y[8 * t + i]).reduce((sum, v) => sum + v, 0);
  const unlike = [0, 1, 2].map(
    (t) =>
      1 -
      dot(a as never, b as never, t) /
        Math.sqrt(dot(a as never, a as never, t) * dot(b as never, b as never, t)),
  );
  expect(hidden).toBeCloseTo(unlike[0] + unlike[1] + unlike[2], 4);
});

describe("a text classifier", () => {
  const config = (labels: string[], problem_type: string) => ({
    ...{ model_type: "distilbert", architectures: ["DistilBertForSequenceClassification"], vocab_size },
    ...{
      dim: 16,
      n_layers: 2,
      n_heads: 2,
      hidden_dim: 32,
      max_position_embeddings: 32,
      initializer_range: 0.3,
    },
    ...{ id2label: Object.fromEntries(labels.entries()), problem_type, dropout: 0, seq_classif_dropout: 0 },
  });
  const make = (labels: string[], problem: string, seed: number) =>
    createModel(parseModelConfig(config(labels, problem))).init(seed) as unknown as Encoder;

  it("teaches a student its labels, which resumes bit for bit; both are measured on the test texts", async () => {
    const texts = Array.from(
      { length: 60 },
      (_, i) => `${["a", "the"][i % 2]} fox ${i % 7},${["odd", "even"][i % 2]}`,
    );
    writeFileSync(place("texts.csv"), ["text,label", ...texts].join("\n"));
    await saveModel(place("classifier"), make(["even", "odd"], "single_label_classification", 5), tokenizer);
    const settings = [
      ...loop.slice(0, 4),
      ...[
        `model.init_from=${place("classifier")}`,
        `data.path=['${place("texts.csv")}']`,
        "data.test_fraction=0.2",
      ],
      ...["train.learning_rate=0.01", "eval.every=0"],
    ];
    const whole = await distil("class-whole", ...settings, "train.steps=6");
    expect(whole.said).toMatch(/student: 1 of the 2 layers.*\n(.*\n)*the teacher: accuracy 0\.\d+, macro F1/);
    expect(whole.losses[5]).toBeLessThan(whole.losses[0]);
    expect(whole.test).toMatchObject({ test_accuracy: expect.any(Number) });
    expect((whole.model as unknown as Encoder).labels).toEqual(["even", "odd"]);
    await saveModel(place("another"), make(["even", "odd"], "single_label_classification", 6), tokenizer);
    const both = await distil(
      "class-both",
      ...settings,
      "train.steps=2",
      `distil.more_teachers=['${place("another")}']`,
    );
    expect(both.said).toMatch(/teacher 1: accuracy .*\n(.*\n)*teacher 2: accuracy/);
    expect(both.losses[0]).not.toBe(whole.losses[0]);
    await saveModel(place("reversed"), make(["odd", "even"], "single_label_classification", 6), tokenizer);
    await expect(
      distil("class-refused", ...settings, `distil.more_teachers=['${place("reversed")}']`),
    ).rejects.toThrow(/reversed is no classifier of the first teacher's labels in their order/);
    await distil("class-parts", ...settings, "train.steps=3");
    const parts = await distil("class-parts", "resume=true", "train.steps=6");
    expect(parts.weights).toBe(whole.weights);
  });

  it.each([
    ["single_label_classification", [2, 0, -100]],
    ["multi_label_classification", [1, 0, 1, 0, 0, 1, -100, -100, -100]],
  ])("of %s is followed in its probabilities, its labels and its state", async (problem, target) => {
    const [student, teacher, second] = [1, 2, 3].map((seed) => make(["a", "b", "c"], problem, seed));
    const isSeveral = problem.startsWith("multi");
    const texts = [
      [5, 9, 12],
      [7, 7],
      [30, 8],
    ].map((ids) => ({ ids }));
    const batch = {
      ...uploadRows(rowsOfOne(student, texts, 4), student),
      labels: isSeveral ? tensor(target, [3, 3]) : tensor(target, [3], "i32"),
    };
    const lossWith = async (
      soft_weight: number,
      hard_weight: number,
      hidden_weight: number,
      ...more: Encoder[]
    ) => {
      const weights = { soft_weight, hard_weight, hidden_weight };
      const objective = new ClassifierDistilObjective(student, [teacher, ...more], {
        ...{ temperature: 3, divergence: "forward", ...weights },
      });
      return objective.loss(batch).item();
    };
    const [said, taught, other] = await Promise.all(
      [student, teacher, second].map(async (model) => [...(await model.logits(batch).data())] as number[]),
    );
    const choices = (logits: number[]) =>
      isSeveral ? logits.slice(0, 6).map((x) => [x, 0]) : [logits.slice(0, 3), logits.slice(3, 6)];
    const share = (x: number[]) => {
      const powers = x.map((value) => Math.exp(value / 3));
      return powers.map((power) => power / powers.reduce((sum, value) => sum + value, 0));
    };
    const soft = (heard: number[]) =>
      choices(heard)
        .flatMap((x, i) => {
          const [p, q] = [share(x), share(choices(said)[i])];
          return p.map((value, k) => 9 * value * Math.log(value / q[k]));
        })
        .reduce((sum, value) => sum + value, 0);
    expect(await lossWith(1, 0, 0)).toBeCloseTo(soft(taught), 3);
    const mean = taught.map((value, i) => (value + other[i]) / 2);
    expect(await lossWith(1, 0, 0, second)).toBeCloseTo(soft(mean), 3);
    expect(await lossWith(0, 1, 0)).toBeCloseTo(await student.loss(batch).item(), 4);
    const states = await Promise.all(
      [student, teacher].map(async (model) => [...(await model.readHidden(batch).data())] as number[]),
    );
    const dot = (a: number[], b: number[]) => a.reduce((sum, value, i) => sum + value * b[i], 0);
    const unlike = [0, 1].map((row) => {
      const [a, b] = states.map((state) => state.slice(16 * row, 16 * row + 16));
      return 1 - dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
    });
    expect(await lossWith(0, 0, 1)).toBeCloseTo(unlike[0] + unlike[1], 4);
  });
});
