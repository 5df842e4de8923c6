import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { createModel, parseModelConfig, saveModel, tinyllmConfig } from "../models/index.ts";
import { Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { recipes } from "../train/recipes/index.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { describeSettings, loadSettings, parseOverrides } from "../train/settings/load.ts";

// What must not change a result, for every recipe that kiln train has: an interruption and recomputed blocks to the bit, and a
// batch in pieces to rounding. That packed rows are unpacked ones is in sft.test.ts, classify.test.ts and data_packing.test.ts, that
// a merged adapter is the applied one in sft.test.ts and lora.test.ts.

const root = mkdtempSync(join(tmpdir(), "kiln-gates-"));
const place = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

const words = ["sea", "sky", "fog", "mud", "day", "eye", "ink", "ice", "sun", "elk", "oak", "ash"];
const special_tokens = ["[PAD]", "[MASK]", "<|endoftext|>"];
const tokenizer = withChatTemplate(
  new Tokenizer(trainBpe([`user assistant ${words.join(" ")}`], { vocab_size: 290, special_tokens }), {
    tokenizer_config: { eos_token: "<|endoftext|>", mask_token: "[MASK]", pad_token: "[PAD]" },
  }),
);
const vocab_size = tokenizer.vocabSize;

function write(name: string, lines: readonly unknown[]): string {
  writeFileSync(
    place(name),
    lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"),
  );
  return place(name);
}

beforeAll(async () => {
  await openDevice();
  const sizes = {
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 48,
  };
  const decoder = createModel(tinyllmConfig({ ...sizes, vocab_size, eos_token_id: tokenizer.eosId }));
  await saveModel(place("decoder"), decoder.init(1), tokenizer);
  const type = { model_type: "distilbert", architectures: ["DistilBertForMaskedLM"], vocab_size };
  const shape = { dim: 16, n_layers: 2, n_heads: 2, hidden_dim: 32, max_position_embeddings: 48 };
  const encoder = createModel(
    parseModelConfig({ ...type, ...shape, dropout: 0, attention_dropout: 0, seq_classif_dropout: 0 }),
  );
  await saveModel(place("encoder"), encoder.init(2), tokenizer);
});

const decoder = `model.init_from=${place("decoder")}`;
const encoder = `model.init_from=${place("encoder")}`;
const stories = ["data.corpus.stories=30", "data.validation_fraction=0.1"];
const chats = [
  `data.path=${write(
    "chats.jsonl",
    words.map((word) => ({ prompt: `the ${word}`, completion: `a ${word} is here` })),
  )}`,
  "data.packing=false",
  "sample.prompts=[]",
];
const pairs = `data.path=${write(
  "pairs.jsonl",
  words.map((prompt) => ({ prompt, chosen: "a sea of fog", rejected: "mud" })),
)}`;
const labels = `data.path=${write("labels.csv", ["text,label", ...words.flatMap((a) => words.map((b) => `${a} ${b},${a < b}`))])}`;
const titles = `data.path=${write("titles.csv", [
  "title,body",
  ...words.map((word, i) => `${word},the ${words[(i + 1) % 12]} and the ${word} of day`),
])}`;
const texts = `data.path=${write("texts.txt", [words.join(" "), "<|endoftext|>", words.toReversed().join(" ")])}`;
const adapters = (...settings: string[]) => ({
  none: settings,
  lora: [...settings, "adapter.kind=lora", "adapter.rank=2"],
  qlora: [...settings, "adapter.kind=qlora", "adapter.rank=2", "adapter.targets=[up_proj,down_proj]"],
});

/** Of each recipe the ways in which it trains, each with its settings. */
const cases: Record<string, Record<string, string[]>> = {
  pretrain: {
    "from scratch": [
      ...stories,
      ...["tokenizer.vocab_size=300", "model.hidden_size=32", "model.num_hidden_layers=1"],
      ...["model.num_attention_heads=2", "sample.prompts=[]"],
    ],
  },
  sft: adapters(decoder, ...chats),
  preference: adapters(decoder, pairs),
  classify: {
    none: [encoder, labels],
    lora: [encoder, labels, "adapter.kind=lora", "adapter.rank=2"],
  },
  mlm: { "from an encoder": [encoder, texts, "data.validation_fraction=0"] },
  embed: { "from an encoder": [encoder, titles, "ranking.group=3", "data.validation_fraction=0"] },
  distil: { "a decoder": [decoder, ...stories], "an encoder": [encoder, ...stories] },
};

const loop = [
  ...["train.sequence_length=48", "train.batch_size=4", "train.warmup_steps=0", "train.schedule=constant"],
  ...["train.learning_rate=0.003", "train.steps=3", "eval.every=0"],
];

async function train(recipe: string, name: string, settings: string[]) {
  const loaded = await recipes[recipe].load();
  const overrides = parseOverrides([`out_dir=${place(name)}`, ...settings]);
  const config = await loadSettings(loaded, null, overrides);
  const { metrics } = await run(loaded, { config, makeSampler: () => async () => "", say: () => {} });
  const file = readdirSync(place(`${name}/model`)).find((each) => each.endsWith("model.safetensors"))!;
  const weights = readFileSync(place(`${name}/model/${file}`)).toString("base64");
  const losses = readMetrics(place(`${name}/log.jsonl`)).flatMap(({ loss }) => loss ?? []) as number[];
  return { metrics, weights, losses };
}

it("there are cases of every recipe, with an adapter too where it takes one", async () => {
  expect(Object.keys(cases).sort()).toEqual(Object.keys(recipes).sort());
  for (const [name, recipe] of Object.entries(recipes)) {
    const { schema } = await recipe.load();
    const takesAdapter = describeSettings(schema).some((setting) => setting.name === "adapter.kind");
    expect(Object.keys(cases[name]).includes("lora")).toBe(takesAdapter);
  }
});

describe.each(
  Object.entries(cases).flatMap(([recipe, ways]) => Object.keys(ways).map((way) => [recipe, way])),
)("%s, %s", (recipe, way) => {
  const settings = [...loop, ...cases[recipe][way]];
  const trained = (name: string, ...own: string[]) =>
    train(recipe, `${recipe} ${way} ${name}`, [...settings, ...own]);
  let whole: Awaited<ReturnType<typeof train>>;
  beforeAll(async () => {
    whole = await trained("whole");
  });

  it("resumed is uninterrupted, to the bit", async () => {
    expect(whole.losses).toHaveLength(3);
    expect(whole.losses[2]).not.toBe(whole.losses[0]);
    await trained("parts", "train.steps=1");
    expect(await train(recipe, `${recipe} ${way} parts`, ["resume=true", "train.steps=3"])).toEqual(whole);
  });

  it("with gradient checkpointing is without, to the bit", async () => {
    expect(await trained("recomputed", "train.gradient_checkpointing=true")).toEqual(whole);
  });

  it("accumulated is the whole batch, to rounding", async () => {
    const halves = ["train.batch_size=2", "train.gradient_accumulation_steps=2"];
    const { losses } = await trained("accumulated", ...halves);
    losses.forEach((loss, i) => void expect(loss).toBeCloseTo(whole.losses[i], 4));
  });
});
