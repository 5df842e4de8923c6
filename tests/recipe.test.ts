import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { z } from "zod";
import { compile } from "../core/compile.ts";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { argmax, crossEntropy, div, eq, mul, openDevice, sum, unsqueeze } from "../kernels/index.ts";
import { Model } from "../models/index.ts";
import { Embedding, Linear } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { checkTrain, type Recipe, runRecipe, runSettings, ShuffledBatches } from "../train/index.ts";
import { readMetrics } from "../train/report/metrics_log.ts";

// A recipe that shares nothing with language models but the loop, made of what the package exports: a classifier of a labelled
// CSV file.

interface LabelBatch {
  /** [B, T], filled up with 0. */
  tokens: Int32Array;
  /** [B, T]: 1 for a token, 0 for filling. */
  mask: Float32Array;
  labels: Int32Array;
  supervised: number;
}

type LabelInputs = Record<"tokens" | "mask" | "labels", Tensor>;

const length = 12;

class BagOfTokens extends Model<LabelInputs> {
  readonly config = { model_type: "bag_of_tokens" };
  readonly shape;
  readonly dropoutRates = { attention: 0, residual: 0, embedding: 0 };
  readonly checkpointNames = { prefix: "", buffers: /^$/, tied: {} };
  readonly embed: Embedding;
  readonly classifier: Linear;

  constructor(vocab_size: number, labels: number) {
    super();
    this.shape = {
      vocab_size,
      hidden_size: 8,
      num_hidden_layers: 1,
      max_position_embeddings: length,
      initializer_range: 0.1,
    };
    this.embed = new Embedding(vocab_size, 8);
    this.classifier = new Linear(8, labels);
  }

  /** [B, labels] */
  logits({ tokens, mask }: Pick<LabelInputs, "tokens" | "mask">): Tensor {
    const known = mul(this.embed.forward(tokens), unsqueeze(mask, 2)); // [B, T, hidden]
    return this.classifier.forward(div(sum(known, 1), sum(mask, 1, true)));
  }

  loss(inputs: LabelInputs): Tensor {
    return crossEntropy(this.logits(inputs), inputs.labels, { reduction: "sum" });
  }

  toHfConfig() {
    return { ...this.config, ...this.shape };
  }
}

interface Example {
  ids: ArrayLike<number>;
  label: number;
}

function collate(examples: readonly Example[]): LabelBatch {
  const tokens = new Int32Array(examples.length * length);
  const mask = new Float32Array(examples.length * length);
  examples.forEach(({ ids }, i) => {
    tokens.set(ids, i * length);
    mask.fill(1, i * length, i * length + ids.length);
  });
  return { tokens, mask, labels: Int32Array.from(examples, (e) => e.label), supervised: examples.length };
}

function upload({ tokens, mask, labels }: LabelBatch): LabelInputs {
  const shape = [labels.length, length];
  return {
    tokens: tensor(tokens, shape, "i32"),
    mask: tensor(mask, shape),
    labels: tensor(labels, [labels.length], "i32"),
  };
}

const schema = z
  .strictObject({ data: z.strictObject({ path: z.array(z.string()) }), ...runSettings("classify") })
  .superRefine(checkTrain);

const recipe: Recipe<z.output<typeof schema>, LabelBatch, LabelInputs> = {
  name: "classify",
  schema,
  inputs: ["data.path"],
  async open({ data, train }, { say }) {
    const text = readFileSync(data.path[0], "utf8");
    const rows = text
      .trim()
      .split("\n")
      .map((line) => line.split(","));
    const tokenizer = new Tokenizer(trainBpe(["ab"], { vocab_size: 260, special_tokens: ["<|endoftext|>"] }));
    const names = [...new Set(rows.map(([, name]) => name))].sort();
    const examples: Example[] = [];
    for (const [words, name] of rows) {
      const ids = await tokenizer.encode(words);
      examples.push({ ids: ids.slice(0, length), label: names.indexOf(name) });
    }
    const [training, held] = [examples.slice(8), collate(examples.slice(0, 8))];
    say(`${training.length} examples of ${names.join(", ")}`);
    const model = new BagOfTokens(tokenizer.vocabSize, names.length).computeIn(train.compute_dtype);
    model.init(train.seed);
    const countRight = compile((...[tokens, mask, labels]: Tensor[]) =>
      noGrad(() => sum(eq(argmax(model.logits({ tokens, mask }), 1), labels))),
    );
    const accuracy = async () => {
      const right = scope(() => countRight(...Object.values(upload(held))));
      return { accuracy: (await right.item()) / held.supervised };
    };
    return {
      model,
      tokenizer,
      batches: new ShuffledBatches(training, { batchSize: train.batch_size, seed: train.seed }, collate),
      objective: { upload, loss: (inputs) => model.loss(inputs) },
      evaluation: {
        criterion: "accuracy",
        samplesAll: true,
        size: "8 examples",
        sample: accuracy,
        all: accuracy,
      },
      decisive: { data: { content: text } },
      close() {},
    };
  },
};

const root = mkdtempSync(join(tmpdir(), "kiln-recipe-"));
beforeAll(async () => void (await openDevice()));
afterAll(() => rmSync(root, { recursive: true }));

const file = join(root, "labels.csv");
const words = ["sun", "sea", "fog", "mud"];
const lines = Array.from({ length: 40 }, (_, i) => `${words[i % 4]} ${i},${i % 4 < 2 ? "good" : "bad"}`);
writeFileSync(file, lines.join("\n"));

async function train(name: string, ...settings: string[]) {
  const { metrics, samples } = await runRecipe(recipe, {
    set: [`out_dir=${join(root, name)}`, ...settings],
    makeSampler: () => async () => "",
  });
  const weights = readFileSync(join(root, name, "model/model.safetensors"));
  const losses = readMetrics(join(root, name, "log.jsonl")).filter(({ loss }) => loss !== undefined);
  return { metrics, samples, weights: weights.toString("base64"), losses: losses.map(({ loss }) => loss) };
}

const settings = [
  `data.path=['${file}']`,
  "train.batch_size=3",
  "train.learning_rate=0.05",
  "train.schedule=constant",
  "train.warmup_steps=0",
];

it("trains a model with batches of its own, and resumes it bit for bit within an epoch", async () => {
  const whole = await train("whole", ...settings, "train.steps=30", "checkpoint.keep_best=true");
  expect(whole.metrics).toEqual({ accuracy: 1 });
  expect(whole.samples.after).toEqual([]);
  const best = JSON.parse(readFileSync(join(root, "whole/best/validation.json"), "utf8"));
  expect(best).toEqual({ step: 30, accuracy: 1 });
  await train("parts", ...settings, "train.steps=7");
  const parts = await train("parts", "resume=true", "train.steps=30");
  expect(parts.losses).toEqual(whole.losses);
  expect(parts.weights).toBe(whole.weights);
});

it("warms up for a tenth of the updates where nothing is said, and as long when resumed for more", async () => {
  const warmed = [...settings.filter((setting) => !setting.includes("warmup")), "train.steps=20"];
  const { losses } = await train("short", ...warmed, "train.schedule=linear");
  expect(losses).toEqual(
    (await train("same", ...warmed, "train.schedule=linear", "train.warmup_steps=2")).losses,
  );
  await train("short", "resume=true", "train.steps=30");
  const { train: saved } = JSON.parse(readFileSync(join(root, "short/config.json"), "utf8"));
  expect(saved).toMatchObject({ steps: 30, warmup_steps: 2 });
});

it("accumulates micro-batches, and takes a batch for what it is of the whole", async () => {
  const once = await train("once", ...settings, "train.batch_size=4", "train.steps=2");
  const accumulated = ["train.batch_size=2", "train.gradient_accumulation_steps=2", "train.steps=2"];
  const twice = await train("twice", ...settings, ...accumulated);
  twice.losses.forEach((loss, i) => void expect(loss).toBeCloseTo(once.losses[i] as number, 5));
});
