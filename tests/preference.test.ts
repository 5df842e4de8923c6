import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { crossEntropy, matmul, openDevice, overRowChunks, transpose } from "../kernels/index.ts";
import { addAdapter, createModel, saveModel, tinyllmConfig, useAdapter } from "../models/index.ts";
import { ChatTemplate, Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { pairBatch, readPairs } from "../train/data/index.ts";
import { PreferenceObjective } from "../train/losses/preference.ts";
import { recipe } from "../train/recipes/preference.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";
import { uploadTokens } from "../train/trainer.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-preference-"));
const place = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

const tokenizer = withChatTemplate(
  new Tokenizer(
    trainBpe(["user assistant system what is the sea blue and deep or grey"], {
      vocab_size: 280,
      special_tokens: ["<|endoftext|>"],
    }),
    { tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" } },
  ),
);
const template = new ChatTemplate(tokenizer);

function model(seed = 1) {
  const config = tinyllmConfig({
    ...{ hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 48 },
    ...{ vocab_size: tokenizer.vocabSize, eos_token_id: tokenizer.eosId, bos_token_id: tokenizer.bosId },
  });
  return createModel(config).init(seed);
}

function write(name: string, rows: readonly unknown[]): string {
  writeFileSync(place(name), rows.map((row) => JSON.stringify(row)).join("\n"));
  return place(name);
}

const things = ["sea", "sky", "fog", "mud", "day", "eye", "ink", "ice"];
const rows = things.map((thing) => ({
  prompt: `what is the ${thing}`,
  chosen: "blue and deep",
  rejected: "grey",
}));

beforeAll(async () => {
  await openDevice();
  await saveModel(place("chat"), model(), tokenizer);
});

describe("pairs", () => {
  const user = { role: "user", content: "what is the sea" };
  const says = (content: string) => ({ role: "assistant", content });

  it("are read alike in the schemas of TRL, LlamaFactory and others; only what differs is learned", async () => {
    const gpt = (value: string) => ({ from: "gpt", value });
    const [chosen, rejected] = ["blue", "grey"];
    const alike = [
      { prompt: user.content, chosen, rejected },
      { prompt: [user], chosen: [says(chosen)], rejected: [says(rejected)] },
      { chosen: [user, says(chosen)], rejected: [user, says(rejected)] },
      { prompt: user.content, chosen: [user, says(chosen)], rejected: [user, says(rejected)] },
      {
        conversations: [{ from: "human", value: user.content }],
        chosen: gpt(chosen),
        rejected: gpt(rejected),
      },
      { instruction: user.content, input: "", output: chosen, chosen, rejected },
      { question: user.content, system: "", chosen, rejected },
      { messages: [user], chosen: says(chosen), rejected: says(rejected) },
    ];
    const { pairs } = await readPairs([write("alike.jsonl", alike)], template, 64);
    expect(pairs).toHaveLength(alike.length);
    for (const pair of pairs) expect(pair).toEqual(pairs[0]);
    const said = (targets: Int32Array) =>
      tokenizer.decode(
        [...targets].filter((id) => id !== -100),
        { skipSpecialTokens: false },
      );
    expect(said(pairs[0].chosen.targets)).toBe("blue<|im_end|>");
    const turns = [user, says("deep"), user];
    const longer = [{ messages: turns, chosen: says("blue"), rejected: says("grey") }];
    const { pairs: later } = await readPairs([write("turns.jsonl", longer)], template, 128);
    expect(said(later[0].rejected.targets)).toBe("grey<|im_end|>");
  });

  it("are left out and counted where they are too long or equal; bad ones are named", async () => {
    const [first] = rows;
    const file = write("left.jsonl", [
      first,
      { ...first, rejected: "grey ".repeat(50) },
      { ...first, rejected: first.chosen },
    ]);
    expect(await readPairs([file], template, 48)).toMatchObject({
      tooLong: 1,
      equal: 1,
      pairs: { length: 1 },
    });
    const bad = {
      "no prompt": { prompt: undefined },
      "rejected should be": { rejected: " " },
      "chosen should be": { chosen: 3 },
      "rejected should be a reply: its text is empty": { rejected: [says(" ")] },
    };
    for (const [message, change] of Object.entries(bad)) {
      const broken = write("bad.jsonl", [first, { ...first, ...change }]);
      await expect(readPairs([broken], template, 48)).rejects.toThrow(
        new RegExp(`bad.jsonl row 2.*${message}`),
      );
    }
  });
});

it("losses of rows by chunks are those of all logits, and so are their derivatives", async () => {
  const wave = (n: number, shape: number[]) =>
    tensor(
      Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.7)),
      shape,
    ).requireGrad();
  const [hidden, weight] = [wave(128 * 8, [128, 8]), wave(40, [5, 8])];
  const target = tensor(
    Int32Array.from({ length: 128 }, (_, i) => (i % 7 === 0 ? -100 : i % 5)),
    [128],
    "i32",
  );
  const each = (h: typeof hidden, t: typeof target) =>
    crossEntropy(matmul(h, transpose(weight, 0, 1)), t, { reduction: "none" });
  const scale = wave(128, [128]);
  const [whole, parts] = [each(hidden, target), overRowChunks([hidden, target], 20, each, 1)];
  expect(Array.from(await parts.data())).toEqual(Array.from(await whole.data()));
  const slopes = [whole, parts].map((losses) => grads(losses.mul(scale).sum(), [hidden, weight]));
  for (const i of [0, 1]) {
    const want = await slopes[0][i]!.data();
    (await slopes[1][i]!.data()).forEach((value, at) => void expect(value).toBeCloseTo(Number(want[at]), 5));
  }
});

it("the objective is the loss of the sums over the replies, beside a reference; padding counts for nothing", async () => {
  const { pairs } = await readPairs([write("pairs.jsonl", rows)], template, 48);
  const [policy, reference] = [model(3), model(4)];
  const options = { loss: "sigmoid", beta: 0.5, label_smoothing: 0, sft_weight: 0.25 } as const;
  const objective = new PreferenceObjective(policy, reference, options);
  const batch = uploadTokens(pairBatch([pairs[0], null], 48), 48);
  const logp = async (of: typeof policy, side: "chosen" | "rejected") => {
    const rows = pairBatch([pairs[0]], 48);
    rows.targets.fill(-100, side === "chosen" ? 48 : 0, side === "chosen" ? 96 : 48);
    return -(await of.loss(uploadTokens(rows, 48)).item());
  };
  const [pc, pr] = [await logp(policy, "chosen"), await logp(policy, "rejected")];
  const [rc, rr] = [await logp(reference, "chosen"), await logp(reference, "rejected")];
  const d = 0.5 * (pc - rc - (pr - rr));
  const count = pairs[0].chosen.targets.filter((id) => id !== -100).length;
  const loss = Math.log1p(Math.exp(-d)) - (0.25 * pc) / count;
  const want = [loss, 0.5 * (pc - rc), 0.5 * (pr - rr), d, d > 0 ? 1 : 0, pc, pr];
  const got = await objective.metrics(batch).data();
  want.forEach((value, i) => void expect(got[i]).toBeCloseTo(value, 3));
  expect(await objective.loss(batch).item()).toBeCloseTo(loss, 4);
});

it("beside an adapter the reference is the model without it: the losses and derivatives of a frozen copy", async () => {
  const { pairs } = await readPairs([write("pairs.jsonl", rows)], template, 48);
  const [policy, frozen] = [model(3), model(3)];
  const adapter = addAdapter(policy, { r: 2 }, { seed: 1 });
  useAdapter(policy, "default");
  const trained = [...adapter.parameters().values()];
  for (const p of trained) p.write(Float32Array.from({ length: p.size }, (_, i) => Math.sin(i + 1) / 4));
  const options = { loss: "sigmoid", beta: 0.5, label_smoothing: 0.1, sft_weight: 0.25 } as const;
  const batch = uploadTokens(pairBatch(pairs.slice(0, 2), 48), 48);
  const [own, copied] = [null, frozen].map((reference) => {
    const objective = new PreferenceObjective(policy, reference, options);
    // Compiled, and called twice: one trace holds both what the model says with the adapter and without.
    const step = compile((...columns: Tensor[]) => {
      const names = Object.keys(batch);
      const inputs = Object.fromEntries(
        columns.map((column, i) => [names[i], column]),
      ) as unknown as typeof batch;
      return {
        metrics: noGrad(() => objective.metrics(inputs)),
        slopes: grads(objective.loss(inputs), trained),
      };
    });
    step(...Object.values(batch));
    return step(...Object.values(batch));
  });
  const read = async (t: Tensor | null) => Array.from(await t!.data());
  expect(await read(own.metrics)).toEqual(await read(copied.metrics));
  expect((await read(own.metrics))[3]).not.toBe(0);
  for (const [i, slope] of own.slopes.entries())
    expect(await read(slope)).toEqual(await read(copied.slopes[i]));
});

describe("kiln train preference", () => {
  const settings = () => [
    `model.init_from=${place("chat")}`,
    `data.path=${write("train.jsonl", rows)}`,
    "data.validation_fraction=0.25",
    "train.sequence_length=48",
    "train.batch_size=2",
    "train.learning_rate=0.01",
    "train.warmup_steps=0",
    "train.schedule=constant",
  ];

  async function train(name: string, ...own: string[]) {
    const config = await loadSettings(recipe, null, parseOverrides([`out_dir=${place(name)}`, ...own]));
    const { metrics } = await run(recipe, { config, makeSampler: () => async () => "", say: () => {} });
    const weights = readFileSync(join(place(name), "model/model.safetensors")).toString("base64");
    const losses = readMetrics(join(place(name), "log.jsonl")).flatMap(({ loss }) => loss ?? []);
    return { metrics, weights, losses: losses as number[] };
  }

  it("learns what is preferred, logs the six quantities, and resumes bit for bit", async () => {
    const whole = await train("whole", ...settings(), "train.steps=6");
    expect(whole.losses[0]).toBeCloseTo(Math.LN2, 5);
    const { rewards_chosen, rewards_rejected, rewards_margins } = whole.metrics as Record<string, number>;
    expect(rewards_margins).toBeGreaterThan(0.1);
    expect(rewards_margins).toBeCloseTo(rewards_chosen - rewards_rejected, 4);
    expect(whole.metrics).toMatchObject({ rewards_accuracies: 1, logps_chosen: expect.any(Number) });
    await train("parts", ...settings(), "train.steps=3");
    const parts = await train("parts", "resume=true", "train.steps=6");
    expect(parts.losses).toEqual(whole.losses);
    expect(parts.weights).toBe(whole.weights);
  });

  it("refuses a model that cannot chat, pairs of which none fits a row, and label smoothing for IPO", async () => {
    const bare = new Tokenizer(tokenizer.json, { tokenizer_config: { eos_token: "<|im_end|>" } });
    await saveModel(place("bare"), model(), bare);
    await expect(train("no", ...settings(), `model.init_from=${place("bare")}`)).rejects.toThrow(
      /kiln train sft/,
    );
    await expect(train("no", ...settings(), "train.sequence_length=4")).rejects.toThrow(
      /no pair is left: \d+ with more than .* 4 tokens, .*; raise --sequence-length/,
    );
    const both = ["preference.loss=ipo", "preference.label_smoothing=0.1"];
    await expect(train("no", ...settings(), ...both)).rejects.toThrow(/label_smoothing/);
  });
});
