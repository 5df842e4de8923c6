import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { openDevice } from "../kernels/index.ts";
import {
  createModel,
  type Encoder,
  fromPretrained,
  loadAdapter,
  packTexts,
  parseModelConfig,
  saveModel,
  uploadRows,
  useAdapter,
} from "../models/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { recipe } from "../train/recipes/classify.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-classify-adapter-"));
const place = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

const special_tokens = ["[PAD]", "[CLS]"];
const tokenizer = new Tokenizer(
  trainBpe(["fine dull film day"], { vocab_size: 270, special_tokens, bos_token: "[CLS]" }),
  { tokenizer_config: { pad_token: "[PAD]", cls_token: "[CLS]" } },
);
const texts = Array.from({ length: 40 }, (_, i) => `${i % 2 ? "fine" : "dull"} ${i % 3 ? "film" : "day"}`);
const settings = [`model.init_from=${place("bert")}`, `data.path=${place("texts.csv")}`, "adapter.rank=2"];
const load = (...own: string[]) =>
  loadSettings(recipe, null, parseOverrides([`out_dir=${place("run")}`, ...settings, ...own]));

beforeAll(async () => {
  await openDevice();
  const rows = texts.map((text, i) => `${text},${i % 2 ? "good" : "bad"}`);
  writeFileSync(place("texts.csv"), ["text,label", ...rows].join("\n"));
  const sizes = { hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32 };
  const type = { model_type: "bert", architectures: ["BertForMaskedLM"], hidden_dropout_prob: 0 };
  const rest = { vocab_size: tokenizer.vocabSize, max_position_embeddings: 24, initializer_range: 0.2 };
  await saveModel(
    place("bert"),
    createModel(parseModelConfig({ ...type, ...sizes, ...rest })).init(1),
    tokenizer,
  );
});

it("an adapter of an encoder learns, with a head and a pooler of its own, and merges into a model with its labels", async () => {
  const loop = [
    "train.sequence_length=24",
    "train.warmup_steps=0",
    "train.steps=30",
    "train.learning_rate=0.02",
  ];
  const config = await load("adapter.kind=lora", "eval.every=0", ...loop);
  const { metrics } = await run(recipe, { config, makeSampler: () => async () => "", say: () => {} });
  expect(metrics).toMatchObject({ accuracy: 1 });
  const json = (name: string) => JSON.parse(readFileSync(place(`run/${name}`), "utf8"));
  expect(json("model/adapter_config.json")).toMatchObject({
    ...{ peft_type: "LORA", task_type: "SEQ_CLS", r: 2, target_modules: ["query", "value"] },
    ...{ modules_to_save: ["classifier", "pooler"], base_model_name_or_path: place("bert") },
  });
  expect(json("merged/config.json")).toMatchObject({ id2label: { 0: "bad", 1: "good" } });
  const head = { task: "text-classification" as const, labels: ["bad", "good"], seed: 7 };
  const { model: applied } = await fromPretrained(place("bert"), { head });
  await loadAdapter(applied, place("run/model"));
  useAdapter(applied, "default");
  const { model: merged } = await fromPretrained(place("run/merged"));
  const encoded = (await tokenizer.encodeBatch(texts)).map((ids) => ({ ids }));
  const logits = async (model: Encoder) =>
    scope(() => noGrad(() => model.logits(uploadRows(packTexts(model, encoded, 24), model)))).data();
  const [wanted, got] = [await logits(applied as Encoder), await logits(merged as Encoder)];
  got.forEach((value, i) => void expect(value).toBeCloseTo(Number(wanted[i]), 5));
  texts.forEach((_, i) => void expect(got[2 * i + 1] > got[2 * i]).toBe(i % 2 === 1));
});

it("refuses an adapter of no model, and an encoder in 4 bits", async () => {
  await expect(load("adapter.kind=qlora")).rejects.toThrow(
    /adapter.kind: qlora is for decoders; .* train lora/,
  );
  await expect(load("adapter.kind=lora", "model.init_from=null")).rejects.toThrow(
    /adapter.kind: an adapter changes a model that there is: name it in model.init_from/,
  );
});
