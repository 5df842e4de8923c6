import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { noGrad, openDevice, scope } from "../index.ts";
import { createModel, parseModelConfig, readModelConfig } from "../models/architectures.ts";
import type { Encoder } from "../models/encoder.ts";
import { loadWeights, saveModel } from "../models/formats/hf_directory.ts";
import { readModelWeights } from "../models/formats/safetensors.ts";
import { fromPretrained } from "../models/index.ts";
import { packTexts, uploadRows } from "../models/text_rows.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { BagOfWords } from "../train/bag_of_words.ts";
import { labelledData, readTexts } from "../train/classifier_data.ts";
import { evaluateClassify } from "../train/eval/classify.ts";
import { recipe } from "../train/recipes/classify.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";
import { fillRows, TextBatches } from "../train/text_batches.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-classify-"));
beforeAll(async () => void (await openDevice()));
afterAll(() => rmSync(root, { recursive: true }));

const adjectives = {
  good: ["fine", "lovely", "bright"],
  bad: ["dull", "sour", "bleak"],
  odd: ["queer", "weird"],
};
const nouns = ["film", "meal", "day", "song", "walk"];
const lines = Array.from({ length: 72 }, (_, i) => {
  const label = (["good", "bad", "odd"] as const)[i % 3];
  const word = adjectives[label][i % adjectives[label].length];
  return `${word} ${nouns[i % nouns.length]},${label}`;
});
const table = (name: string, rows: readonly string[], header = "text,label") => {
  const file = join(root, name);
  writeFileSync(file, [header, ...rows].join("\n"));
  return file;
};
const toy = table("toy.csv", lines);

const small = [
  "model.hidden_size=16",
  "model.num_hidden_layers=1",
  "model.num_attention_heads=2",
  "model.dropout=0",
  "tokenizer.vocab_size=300",
  "train.sequence_length=48",
  "train.batch_size=2",
  "train.warmup_steps=0",
];

async function train(name: string, file: string, ...settings: string[]) {
  const out = join(root, name);
  const overrides = parseOverrides([
    `out_dir=${out}`,
    ...(file ? [`data.path=['${file}']`] : []),
    ...settings,
  ]);
  const config = await loadSettings(recipe, null, overrides);
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const result = await run(recipe, { config, makeSampler: () => async () => "", say });
  const weights = readFileSync(join(out, "model/model.safetensors")).toString("base64");
  const losses = readMetrics(join(out, "log.jsonl")).flatMap(({ loss }) =>
    loss === undefined ? [] : Number(loss),
  );
  return { ...result, out, said: said.join("\n"), weights, losses };
}

async function predictions(folder: string): Promise<number[][]> {
  const model = createModel(await readModelConfig(folder)) as unknown as Encoder;
  loadWeights(model, await readModelWeights(folder));
  const texts = await Tokenizer.load(folder).encodeBatch(lines.map((line) => line.split(",")[0]));
  const rows = packTexts(
    model,
    texts.map((ids) => ({ ids })),
    48,
  );
  const values = await scope(() => noGrad(() => model.logits(uploadRows(rows, model)))).data();
  return lines.map((_, i) => [...values.slice(3 * i, 3 * i + 3)]);
}

describe("kiln train classify", () => {
  it("learns, measures, draws, and keeps labels in the checkpoint; resuming changes no bit", async () => {
    const settings = [...small, "train.learning_rate=0.02", "eval.every=20", "train.schedule=constant"];
    const whole = await train("whole", toy, ...settings, "train.steps=60", "eval.baseline=true");
    expect(whole.metrics).toMatchObject({ accuracy: 1, macro_f1: 1, weighted_f1: 1, mcc: 1 });
    expect(whole.said).toMatch(/bag-of-words logistic regression: accuracy 1\.0000/);
    expect(whole.said).toMatch(/true \\ predicted +bad +good +odd/);
    expect(existsSync(join(whole.out, "confusion.svg"))).toBe(true);
    const config = JSON.parse(readFileSync(join(whole.out, "model/config.json"), "utf8"));
    expect(config).toMatchObject({
      architectures: ["DistilBertForSequenceClassification"],
      id2label: { 0: "bad", 1: "good", 2: "odd" },
      label2id: { bad: 0, good: 1, odd: 2 },
      problem_type: "single_label_classification",
    });
    await train("parts", toy, ...settings, "train.steps=15");
    const parts = await train("parts", "", "resume=true", "train.steps=60");
    expect(parts.losses).toEqual(whole.losses);
    expect(parts.weights).toBe(whole.weights);
  });

  it("goes on from its model with the same predictions, on data in any order", async () => {
    const measured = `data.validation_path=['${toy}']`;
    const first = await train("first", toy, ...small, measured, "train.learning_rate=0.01", "train.steps=10");
    // What the run measured is what a user of the model gets.
    const loaded = await fromPretrained(first.modelDir);
    const { values } = await evaluateClassify(loaded, "first", { data: [toy] });
    for (const name of ["accuracy", "macro_f1", "mcc", "ece"])
      expect(values[name]).toBeCloseTo(first.metrics![name]!, 4);
    const more = [
      "train.steps=3",
      "train.sequence_length=48",
      "train.warmup_steps=0",
      `model.init_from=${first.out}`,
    ];
    const again = await train("again", toy, ...more);
    const turned = await train("turned", table("turned.csv", lines.toReversed()), ...more);
    expect(turned.weights).toBe(again.weights);
    const tiny = [...more, "train.learning_rate=1e-30", "train.optimizer.weight_decay=0"];
    const odd = lines.filter((line) => !line.endsWith("bad")).toReversed();
    const kept = await train("kept", table("two_of_three.csv", odd), ...tiny);
    expect(await predictions(kept.modelDir)).toEqual(await predictions(first.modelDir));
  });

  it("accumulates to the gradient of one batch, and computes the same with gradient checkpointing", async () => {
    const settings = [...small, "train.optimizer.name=sgd", "train.learning_rate=0.1", "train.steps=3"];
    const once = await train("once", toy, ...settings, "data.class_weights=true");
    const halves = ["train.batch_size=1", "train.gradient_accumulation_steps=2", "data.class_weights=true"];
    const twice = await train("twice", toy, ...settings, ...halves);
    twice.losses.forEach((loss, i) => void expect(loss).toBeCloseTo(once.losses[i], 5));
    const again = ["train.gradient_checkpointing=true", "data.class_weights=true"];
    const checkpointed = await train("checkpointed", toy, ...settings, ...again);
    expect(checkpointed.losses).toEqual(once.losses);
    expect(checkpointed.weights).toBe(once.weights);
  });

  it("weighs texts by their label", async () => {
    const settings = [...small, "train.steps=20", "train.learning_rate=0.01"];
    const plain = await train("plain", toy, ...settings);
    const ones = await train("ones", toy, ...settings, "data.class_weights={good: 1}");
    expect(ones.losses).toEqual(plain.losses);
    const { metrics } = await train(
      "only_odd",
      toy,
      ...settings,
      "data.class_weights={good: 1e-6, bad: 1e-6}",
    );
    expect(metrics!.accuracy).toBeLessThan(0.5); // all are called odd
    const wrong = train("wrong", toy, ...settings, "data.class_weights={goood: 2}");
    await expect(wrong).rejects.toThrow('data.class_weights names "goood"');
    await expect(train("none", toy, ...settings, "data.class_weights={good: 0}")).rejects.toThrow(
      "data.class_weights",
    );
  });

  it("ends early with the best weights, and reports what chose no step", async () => {
    const early = ["eval.every=2", "eval.patience=2", "eval.criterion=accuracy", "train.learning_rate=0.01"];
    const { steps, metrics, test, out, weights, said } = await train(
      "early",
      toy,
      ...small,
      ...early,
      "train.steps=200",
    );
    expect(steps).toBeLessThan(200);
    expect(said).toMatch(/58 texts with 3 labels .*; held out: 7; for a test at the end: 7/);
    expect(test).toMatchObject({ test_accuracy: expect.any(Number), test_loss: expect.any(Number) });
    expect(readMetrics(join(out, "log.jsonl")).at(-1)).toMatchObject(test!);
    const best = JSON.parse(readFileSync(join(out, "best/validation.json"), "utf8"));
    expect(metrics!.accuracy).toBe(best.accuracy);
    expect(readFileSync(join(out, "best/model.safetensors")).toString("base64")).toBe(weights);
  });

  it("reads all text in lower case where that is asked for, special tokens' names as text", async () => {
    const turned = lines.map((line, i) =>
      i % 2 ? line : line.replace(/^\w+ \w+/, (text) => text.toUpperCase()),
    );
    const { modelDir, tokenizer } = await train(
      "lower",
      table("upper.csv", turned),
      ...small,
      "tokenizer.lowercase=true",
      "train.steps=1",
    );
    for (const text of ["FINE Film", "fine FILM", "fine film"])
      expect(await Tokenizer.load(modelDir).encode(text)).toEqual(await tokenizer.encode("fine film"));
    const [named] = await tokenizer.encodeBatch(["a [MASK]"], { parseSpecialTokens: false });
    expect(named).not.toContain(tokenizer.maskId);
    expect(tokenizer.decode(named)).toBe("a [mask]");
  });

  it("learns several labels of a text", async () => {
    const rows = lines.map(
      (line, i) => `${line.split(",")[0]}${i % 2 ? " twice" : ""},${i % 3 === 0 ? 1 : 0},${i % 2}`,
    );
    const file = table("several.csv", rows, "text,is_good,is_twice");
    const labels = [
      "data.label=[is_good,is_twice]",
      "train.learning_rate=0.005",
      "train.steps=100",
      "model.hidden_size=32",
    ];
    const { metrics, modelDir } = await train("several", file, ...small, ...labels);
    expect(metrics).toMatchObject({ accuracy: 1, macro_f1: 1, hamming_loss: 0 });
    const config = await readModelConfig(modelDir);
    expect(config).toMatchObject({
      problem_type: "multi_label_classification",
      id2label: { 0: "is_good", 1: "is_twice" },
    });
  });

  it("starts from an encoder without a head for labels, and says so", async () => {
    const { tokenizer } = await train("any", toy, ...small, "train.steps=1");
    const sizes = { dim: 16, n_layers: 1, n_heads: 2, hidden_dim: 32, max_position_embeddings: 20 };
    const config = {
      model_type: "distilbert",
      architectures: ["DistilBertForMaskedLM"],
      vocab_size: 300,
      ...sizes,
    };
    const base = createModel(parseModelConfig(config)).init(3);
    await saveModel(join(root, "base"), base, tokenizer);
    const settings = [
      "train.steps=1",
      "train.sequence_length=48",
      "train.warmup_steps=0",
      `model.init_from=${join(root, "base")}`,
    ];
    const { said, model } = await train("tuned", toy, ...settings);
    expect(said).toMatch(/starting from .*base, with a new head$/m);
    expect((model as unknown as Encoder).labels).toEqual(["bad", "good", "odd"]);
  });
});

describe("texts to learn, to stop by and to test", () => {
  const read = (given: object, stopsEarly: boolean) =>
    readTexts(labelledData.parse({ path: [toy], ...given }), stopsEarly, () => {});
  const wheres = (texts: { where: string }[]) => texts.map(({ where }) => where);

  it("share no row and are all rows; the test does not depend on the rest", async () => {
    const { train: learned, validation, test } = await read({}, true);
    expect(new Set(wheres([...learned, ...validation, ...test])).size).toBe(lines.length);
    expect(learned.length + validation.length + test.length).toBe(lines.length);
    const other = await read({ validation_fraction: 0.3, test_fraction: 0.1 }, false);
    expect(wheres(other.test)).toEqual(wheres(test));
    expect((await read({}, false)).test).toEqual([]);
    expect((await read({ test_fraction: 0 }, true)).test).toEqual([]);
  });

  it("may be files of their own", async () => {
    const file = table("test.csv", lines.slice(0, 9));
    const { train: learned, validation, test } = await read({ test_path: [file] }, true);
    expect(test).toHaveLength(9);
    expect(learned.length + validation.length).toBe(lines.length);
  });
});

describe("rows of texts", () => {
  it("are full, hold each text once, and give the loss of the texts one by one", async () => {
    const config = { model_type: "distilbert", architectures: ["DistilBertForSequenceClassification"] };
    const sizes = {
      dim: 16,
      n_layers: 2,
      n_heads: 2,
      hidden_dim: 32,
      max_position_embeddings: 16,
      num_labels: 3,
    };
    const model = createModel(parseModelConfig({ ...config, ...sizes, vocab_size: 50 })).init(
      5,
    ) as unknown as Encoder;
    const text = (i: number) => Array.from({ length: 1 + ((i * 7) % 16) }, (_, k) => (i * 31 + k * 17) % 50);
    const texts = Array.from({ length: 60 }, (_, i) => ({ ids: text(i), target: [i % 3] }));
    const rows = fillRows(texts, 64, 1);
    expect(new Set(rows.flat())).toEqual(new Set(texts));
    const tokens = texts.reduce((sum, { ids }) => sum + ids.length, 0);
    expect(rows.length * 64).toBeLessThanOrEqual(tokens + 64);
    const lossOf = async (some: typeof rows, length: number) => {
      const batches = new TextBatches(model, { length, width: 1, mostInRow: 60, weights: null });
      const batch = batches.collate(some);
      return scope(() => noGrad(() => model.loss(batches.upload(batch)))).item();
    };
    let apart = 0;
    for (const each of texts) apart += await lossOf([[each]], 16);
    expect(await lossOf(rows, 64)).toBeCloseTo(apart, 3);
  });
});

describe("refuses in one line", () => {
  const short = [...small, "train.steps=1"];
  it.each<[string, string[], string[], RegExp]>([
    [
      "a label alone",
      ["fine film,good", "dull film,good"],
      [],
      /the only label is "good"; a classifier needs two/,
    ],
    [
      "labels that all occur once",
      ["fine film,good", "dull film,bad"],
      [],
      /each label occurs once.*give more rows/,
    ],
    ["one row", ["fine film,good"], [], /only 1 row with text and label/],
    ["an empty column", ["fine film,", "dull film,"], [], /the column label is empty in all 2 rows/],
    [
      "a size of a model to start from",
      lines,
      ["model.init_from=/x"],
      /hidden_size.*has its own; leave it out/,
    ],
  ])("%s", async (name, rows, settings, message) => {
    await expect(train(`bad ${name}`, table(`${name}.csv`, rows), ...short, ...settings)).rejects.toThrow(
      message,
    );
  });

  it("data with labels that the model does not know, and a head of another size than its config says", async () => {
    const { out, modelDir } = await train("known", toy, ...short);
    const other = table(
      "other.csv",
      lines.map((line) => line.replace(/odd$/, "ODD")),
    );
    const from = [
      "train.steps=1",
      "train.sequence_length=48",
      "train.warmup_steps=0",
      `model.init_from=${out}`,
    ];
    await expect(train("unknown", other, ...from)).rejects.toThrow(
      /labels that the model does not know: "ODD".*it knows "bad", "good", "odd"/,
    );
    const file = join(modelDir, "config.json");
    const config = JSON.parse(readFileSync(file, "utf8"));
    writeFileSync(
      file,
      JSON.stringify({ ...config, id2label: { 0: "bad", 1: "good" }, label2id: undefined }),
    );
    await expect(train("head", toy, ...from)).rejects.toThrow(/labels that the model does not know: "odd"/);
    const two = table(
      "two.csv",
      lines.filter((line) => !line.endsWith("odd")),
    );
    await expect(train("size", two, ...from)).rejects.toThrow(
      /classifier.weight is \[3, 16\], the config says \[2, 16\]; check config.json/,
    );
  });

  it("a column that is not there, by the command", () => {
    const kiln = new URL("../bin/kiln.mjs", import.meta.url).pathname;
    const flags = [
      "--from-scratch",
      "--data",
      toy,
      "--text",
      "text",
      "--label",
      "lable",
      "--out",
      join(root, "none"),
    ];
    const { stderr, status } = spawnSync(process.execPath, [kiln, "train", "classify", ...flags], {
      encoding: "utf8",
    });
    expect(stderr).toMatch(/toy\.csv has no column "lable".*"label"/);
    expect(status).not.toBe(0);
  });

  it("nothing that it can say instead: labels that occur once, and texts over the context", async () => {
    const long = `${"very ".repeat(60)}fine film,good`;
    const { said } = await train("said", table("said.csv", [...lines, "alone,single", long]), ...short);
    expect(said).toMatch(/labels that occur once are trained on but never measured: "single"/);
    expect(said).toMatch(
      /1 of \d+ texts are longer than 48 tokens \(the longest has \d+\): only the first 48/,
    );
  });
});

it("a bag of words knows its words, and its bias is where the derivative is 0", () => {
  const texts = ["good film", "bad film", "good good day", "a bad day", "film"];
  const fitted = BagOfWords.fit(texts, [1, 0, 1, 0, 1], 2);
  const [good, bad] = fitted.predict(["good", "bad"]);
  expect(good[1]).toBeGreaterThan(0.6);
  expect(bad[0]).toBeGreaterThan(0.6);
  // Where the bias is free, the mean probability of a class is its share.
  const mean = fitted.predict(texts).reduce((sum, p) => sum + p[1], 0) / texts.length;
  expect(mean).toBeCloseTo(3 / 5, 2);
});
