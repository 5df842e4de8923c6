import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openDevice } from "../index.ts";
import { createModel, parseModelConfig } from "../models/architectures.ts";
import type { Encoder } from "../models/encoder.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { MaskedBatches } from "../train/masked_texts.ts";
import { recipe as classify } from "../train/recipes/classify.ts";
import { recipe } from "../train/recipes/mlm.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-mlm-"));
beforeAll(async () => void (await openDevice()));
afterAll(() => rmSync(root, { recursive: true }));

const animals = ["cat", "dog", "cow"];
const corpus = Array.from(
  { length: 60 },
  (_, i) => `the ${animals[i % 3]} says ${["meow", "woof", "moo"][i % 3]} again`,
);
const file = join(root, "corpus.txt");
writeFileSync(file, corpus.join("\n"));

const small = [
  `data.path=['${file}']`,
  'data.separator="\\n"',
  "data.validation_fraction=0.1",
  "model.hidden_size=16",
  "model.num_hidden_layers=1",
  "model.num_attention_heads=2",
  "tokenizer.vocab_size=290",
  "train.sequence_length=32",
  "train.batch_size=2",
  "train.warmup_steps=0",
  "train.schedule=constant",
  "train.learning_rate=0.02",
];

async function train(name: string, ...settings: string[]) {
  const out = join(root, name);
  const config = await loadSettings(recipe, null, parseOverrides([`out_dir=${out}`, ...settings]));
  const { metrics } = await run(recipe, { config, makeSampler: () => async () => "", say: () => {} });
  const weights = readFileSync(join(out, "model/model.safetensors")).toString("base64");
  const losses = readMetrics(join(out, "log.jsonl")).flatMap(({ loss }) =>
    loss === undefined ? [] : Number(loss),
  );
  return { metrics, weights, losses, out };
}

it("learns, resumes bit for bit, and its model is one to classify with", async () => {
  const whole = await train("whole", ...small, "train.steps=40");
  expect(whole.metrics!.validation_loss!).toBeLessThan(whole.losses[0] / 2);
  await train("parts", ...small, "train.steps=30");
  const parts = await train("parts", "resume=true", "train.steps=40");
  expect(parts.losses).toEqual(whole.losses);
  expect(parts.weights).toBe(whole.weights);
  const tokenizer = await Tokenizer.load(join(whole.out, "model"));
  const [spaced, plain] = await tokenizer.encodeBatch(["the [MASK]", "the[MASK]"]);
  expect(spaced).toEqual(plain); // the space is the masked word's
  expect(plain!.at(-1)).toBe(tokenizer.maskId);
  const table = join(root, "animals.csv");
  writeFileSync(table, ["text,label", ...corpus.map((text, i) => `${text},${animals[i % 3]}`)].join("\n"));
  const settings = [
    `data.path=['${table}']`,
    `model.init_from=${whole.out}`,
    "train.sequence_length=32",
    "train.steps=1",
  ];
  const overrides = parseOverrides([...settings, "train.warmup_steps=0", `out_dir=${join(root, "tuned")}`]);
  const said: string[] = [];
  const config = await loadSettings(classify, null, overrides);
  await run(classify, { config, makeSampler: () => async () => "", say: (line) => void said.push(line) });
  expect(said.join("\n")).toMatch(/starting from .*whole\/model, with a new head/);
});

it("accumulates to the gradient of one batch, and computes the same with gradient checkpointing", async () => {
  const settings = [...small, "model.dropout=0", "train.optimizer.name=sgd", "train.steps=3"];
  const once = await train("once", ...settings);
  const twice = await train(
    "twice",
    ...settings,
    "train.batch_size=1",
    "train.gradient_accumulation_steps=2",
  );
  twice.losses.forEach((loss, i) => void expect(loss).toBeCloseTo(once.losses[i], 5));
  const checkpointed = await train("checkpointed", ...settings, "train.gradient_checkpointing=true");
  expect(checkpointed.weights).toBe(once.weights);
});

it("guesses 15% of tokens that are not special: 80% masked, 10% random, 10% as they are, others each pass", () => {
  const special_tokens = ["[PAD]", "[CLS]", "[MASK]"];
  const tokenizer = new Tokenizer(trainBpe(["ab"], { vocab_size: 260, special_tokens, bos_token: "[CLS]" }));
  const sizes = {
    dim: 8,
    n_layers: 1,
    n_heads: 1,
    hidden_dim: 8,
    max_position_embeddings: 400,
    vocab_size: 260,
  };
  const config = { model_type: "distilbert", architectures: ["DistilBertForMaskedLM"], ...sizes };
  const model = createModel(parseModelConfig(config)) as unknown as Encoder;
  const ids = [1, ...Array.from({ length: 400 - 1 }, (_, i) => 3 + (i % 250))];
  const rows = Array.from({ length: 50 }, () => [{ ids }]);
  const batches = new MaskedBatches(model, tokenizer, rows, {
    batchSize: 50,
    length: 420,
    seed: 1,
    share: 0.15,
  });
  const [first, second] = [batches.next(), batches.next()];
  expect(first.supervised).toBe(50 * 60);
  expect(second.places).not.toEqual(first.places);
  const shown = Array.from(first.places.subarray(0, 3000), (place) => first.tokens[place]);
  const labels = first.labels.subarray(0, 3000);
  expect(labels).not.toContain(1);
  const share = (is: (token: number, label: number) => boolean) =>
    shown.filter((token, i) => is(token, labels[i])).length / 3000;
  expect(share((token) => token === 2)).toBeCloseTo(0.8, 1);
  expect(share((token, label) => token === label)).toBeCloseTo(0.1, 1);
  // All other tokens are those of the text.
  const guessed = new Set(first.places);
  for (const [place, token] of Array.from(first.tokens as Int32Array).entries())
    if (!guessed.has(place)) expect(token).toBe(place % 420 < 400 ? ids[place % 420] : 0);
});
