import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel, loadModel, parseModelConfig } from "../models/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";
import { exportTorchrun } from "../train/deploy/torchrun.ts";
import { recipes } from "../train/recipes/index.ts";
import { run } from "../train/run.ts";
import { loadSettings } from "../train/settings/load.ts";

// Two processes of torch go on with runs of kiln, and find its losses. Needs a Python with torch and safetensors: KILN_PYTHON, or
// python3.

const python = process.env.KILN_PYTHON ?? "python3";
const hasTorch = spawnSync(python, ["-c", "import torch, safetensors"]).status === 0;
const folder = mkdtempSync(join(tmpdir(), "kiln-torchrun-"));
const stories = join(folder, "stories.txt");
const chats = join(folder, "chats.jsonl");
const base = join(folder, "base");

beforeAll(async () => {
  await openDevice();
  const texts = [...storyCorpus({ seed: 1, stories: 120 })];
  writeFileSync(stories, texts.join("\n"));
  const turn = (text: string) => ({ prompt: text.slice(0, 20), completion: text.slice(20, 80) });
  writeFileSync(chats, texts.map((text) => JSON.stringify(turn(text))).join("\n"));
  const gpt2 = { model_type: "gpt2", vocab_size: 300, n_positions: 256, n_embd: 48, n_layer: 2, n_head: 4 };
  const dropout = { attn_pdrop: 0, resid_pdrop: 0, embd_pdrop: 0 };
  const special = { special_tokens: ["<|im_start|>", "<|im_end|>"] };
  const tokenizer = new Tokenizer(trainBpe(texts, { vocab_size: 300, ...special }), {
    tokenizer_config: { eos_token: "<|im_end|>" },
  });
  const model = createModel(
    parseModelConfig({ ...gpt2, ...dropout, bos_token_id: null, eos_token_id: 1 }),
  ).init(1);
  await model.savePretrained(base, tokenizer);
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

type Losses = { step: number; loss: number }[];
const lines = (path: string): Losses =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .filter(({ loss }) => loss !== undefined);

/** Trains 30 updates with a checkpoint after each 10; returns its losses after the first of them. */
async function trained(
  name: string,
  recipeName: string,
  settings: object,
): Promise<{ out: string; losses: Losses }> {
  const out = join(folder, name);
  const train = {
    steps: 30,
    warmup_steps: 4,
    learning_rate: 3e-3,
    gradient_accumulation_steps: 2,
    batch_size: 4,
  };
  const always = {
    checkpoint: { every: 10, keep: 3 },
    eval: { every: 0 },
    sample: { every: 0, max_tokens: 1 },
  };
  const file = join(folder, `${name}.json`);
  const { train: own, ...rest } = settings as { train: object };
  writeFileSync(file, JSON.stringify({ ...rest, ...always, out_dir: out, train: { ...train, ...own } }));
  const recipe = await recipes[recipeName].load();
  const config = await loadSettings(recipe, file);
  await run(recipe, { config, say: () => {}, makeSampler: () => async () => "" });
  return { out, losses: lines(join(out, "log.jsonl")).filter(({ step }) => step > 10) };
}

const runs: [string, string, object][] = [
  [
    "pretrain",
    "fsdp",
    {
      data: { path: [stories] },
      tokenizer: { vocab_size: 300 },
      model: {
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
      },
      train: { sequence_length: 64, max_grad_norm: 0.5 },
    },
  ],
  [
    "sft",
    "ddp",
    { data: { path: [chats] }, model: { init_from: base }, train: { sequence_length: 96, batch_size: 2 } },
  ],
];

describe.runIf(hasTorch)("kiln export --to torchrun (needs Python with torch)", () => {
  it.each(runs)(
    "two processes continue the losses of kiln train %s by %s",
    async (name, strategy, settings) => {
      const { out, losses } = await trained(name, name, settings);
      const to = join(folder, `${name}-torchrun`);
      const found = await exportTorchrun(join(out, "checkpoints/step-000010"), { out: to, say: () => {} });
      expect(found).toEqual({ step: 10, updates: 20, shards: 1 });
      const torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"];
      const done = spawnSync(python, [...torchrun, join(to, "train.py"), "--strategy", strategy], {
        encoding: "utf8",
        env: { ...process.env, OMP_NUM_THREADS: "1", CUDA_VISIBLE_DEVICES: "" },
      });
      expect(done.status, done.stderr).toBe(0);
      const theirs = lines(join(to, "losses.jsonl"));
      expect(theirs.map(({ step }) => step)).toEqual(losses.map(({ step }) => step));
      const errors = theirs.map(({ loss }, i) => Math.abs(loss - losses[i].loss));
      console.log(
        `${name}, ${strategy}: losses ${losses[0].loss} to ${losses.at(-1)!.loss}, within ${Math.max(...errors)}`,
      );
      expect(Math.max(...errors)).toBeLessThan(1e-3);
      expect(readdirSync(join(to, "latest"))).toEqual(
        expect.arrayContaining(["model.safetensors", "tokenizer.json"]),
      );
      const { model } = await loadModel(join(to, "latest"));
      const ours = await loadModel(join(out, "model"));
      for (const [key, parameter] of ours.model.namedParameters()) {
        const [a, b] = [await parameter.data(), await model.namedParameters().get(key)!.data()];
        expect(Math.max(...a.map((value, i) => Math.abs(value - b[i])))).toBeLessThan(0.01);
      }
    },
    600_000,
  );
});

it("kiln export --to torchrun refuses a finished run, and what train.py does not compute, in a line", async () => {
  const { out } = await trained("refused", "pretrain", runs[0][2]);
  const ask = (path: string, steps?: number) =>
    exportTorchrun(path, { out: join(folder, "never"), steps, say: () => {} });
  await expect(ask(out)).rejects.toThrow(/is finished: 30 updates; to train on, give more --steps$/);
  await expect(ask(base)).rejects.toThrow(/has no checkpoint; --to torchrun takes the folder of a run/);
  const file = join(out, "config.json");
  const config = JSON.parse(readFileSync(file, "utf8"));
  const changed = async (train: object, message: RegExp) => {
    writeFileSync(file, JSON.stringify({ ...config, train: { ...config.train, ...train } }));
    await expect(ask(out, 40)).rejects.toThrow(message);
  };
  await changed({ optimizer: { name: "lion" } }, /train.py has no optimizer lion; it knows adamw and adam: /);
  await changed(
    { ema_decay: 0.9 },
    /train.py has no averaged weights; resume the run with --set train.ema_decay=0/,
  );
  expect(readdirSync(folder)).not.toContain("never");
}, 600_000);
