import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { parseOverrides, parsePretrainConfig } from "../train/config.ts";
import { readMetrics } from "../train/logs.ts";
import { pretrain } from "../train/pretrain.ts";

/** What a run measures and keeps, inside one process; tests/pretrain.test.ts has whole processes. */
const root = mkdtempSync(join(tmpdir(), "kiln-run-"));
beforeAll(async () => void (await openDevice()));
afterAll(() => rmSync(root, { recursive: true }));

const toy = [
  "data.corpus.stories=40",
  "data.validation_fraction=0.4",
  "tokenizer.vocab_size=300",
  "model.hidden_size=32",
  "model.num_hidden_layers=1",
  "model.num_attention_heads=2",
  "train.sequence_length=32",
  "train.batch_size=2",
  "train.warmup_steps=1",
  "train.steps=1",
  "sample.max_tokens=1",
];

async function train(name: string, ...settings: string[]) {
  const lines: string[] = [];
  const overrides = parseOverrides([...toy, `out_dir=${join(root, name)}`, ...settings]);
  const config = parsePretrainConfig("{}", "test", overrides);
  const result = await pretrain({
    config,
    makeSampler: () => async () => "",
    say: (line) => lines.push(line),
  });
  return { ...result, lines, records: readMetrics(join(root, name, "log.jsonl")) };
}

describe("the validation loss", () => {
  it("of equal weights is equal to the bit whatever the batch size, and at the end that of the whole set", async () => {
    // The first update of a warm-up has rate 0: the weights stay those of the seed.
    const runs = [];
    for (const size of [1, 3, 8]) {
      runs.push(await train(`batch${size}`, `train.batch_size=${size}`, "eval.tokens=300"));
    }
    const measured = runs.map(({ records }) => records.filter((r) => "validation_loss" in r));
    expect(measured[0]).toHaveLength(2);
    expect(measured[1]).toEqual(measured[0]);
    expect(measured[2]).toEqual(measured[0]);
    const [budget, whole] = measured[0]!;
    expect(budget!.validation_tokens).toBeLessThanOrEqual(320);
    expect(budget!.validation_tokens).toBeGreaterThan(250);
    expect(whole!.validation_tokens).toBeGreaterThan(1000);
    expect(runs[0]!.validationLoss).toBe(whole!.validation_loss);
    expect(runs[0]!.validationTokens).toBe(whole!.validation_tokens);

    // A budget of more than the set is the set, once, and agrees but for the order of the sum.
    const all = await train("all", "eval.tokens=1000000");
    const records = all.records.filter((r) => "validation_loss" in r);
    expect(records).toHaveLength(1);
    expect(all.validationTokens).toBe(runs[0]!.validationTokens);
    expect(Math.abs(all.validationLoss! - runs[0]!.validationLoss!)).toBeLessThan(1e-6);
  });

  it("is absent, not 0/0, where nothing is held out", async () => {
    const run = await train("none", "data.validation_fraction=0");
    expect(run.validationLoss).toBe(null);
    expect(run.validationTokens).toBe(null);
    expect(run.records.some((r) => "validation_loss" in r)).toBe(false);
  });
});
