import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { Linear } from "../nn/index.ts";
import { WeightAverage } from "../train/optimizers/weight_average.ts";
import { toyRuns } from "./support/train_toy.ts";

const { place, train, resume } = toyRuns();

const checkpointWeights = (name: string, step: string) =>
  readFileSync(join(place(name), "checkpoints", step, "model.safetensors")).toString("base64");

describe("gradient checkpointing", () => {
  for (const [what, ...settings] of [
    ["a Llama", "model.num_hidden_layers=3"],
    [
      "a GPT-2 with dropout, in two micro-batches,",
      "model.preset=gpt2",
      "train.gradient_accumulation_steps=2",
      "model.num_hidden_layers=3",
      "model.attn_pdrop=0.2",
      "model.resid_pdrop=0.2",
      "model.embd_pdrop=0.2",
    ],
  ]) {
    it(`gives ${what} the same bits`, async () => {
      const kept = await train(`kept ${what}`, "train.steps=4", ...settings);
      const again = await train(
        `again ${what}`,
        "train.steps=4",
        "train.gradient_checkpointing=true",
        ...settings,
      );
      expect(again.trainLoss).toBe(kept.trainLoss);
      expect(again.weights).toBe(kept.weights);
    });
  }
});

describe("averaged weights", () => {
  it("follow their formula, and stand in for the weights only inside `during`", async () => {
    const reference = new ReferenceDevice();
    await withDevice(reference, async () => {
      const layer = new Linear(1, 1, { bias: false });
      layer.weight.write([1]);
      const average = new WeightAverage(layer.namedParameters(), 0.5);
      let expected = 1;
      for (const [updates, weight] of [2, 6, -3, 8].entries()) {
        layer.weight.write([weight]);
        average.count(updates);
        average.update();
        const decay = Math.min(0.5, (1 + updates) / (10 + updates));
        expected = decay * expected + (1 - decay) * weight;
      }
      expect(await average.during(() => layer.weight.item())).toBeCloseTo(expected, 12);
      expect(await layer.weight.item()).toBe(8);
    });
  });

  it("leave training as it was, are what is saved at the end, and resume bit for bit", async () => {
    const plain = await train("plain", "train.steps=6", "checkpoint.every=3");
    const whole = await train("whole", "train.steps=6", "checkpoint.every=3", "train.ema_decay=0.9");
    expect(checkpointWeights("whole", "step-000006")).toBe(checkpointWeights("plain", "step-000006"));
    expect(whole.weights).not.toBe(plain.weights);
    expect(whole.validationLoss).not.toBe(plain.validationLoss);
    const parts = await resume("whole", "resume=step-000003");
    expect(parts.weights).toBe(whole.weights);
    expect(parts.validationLoss).toBe(whole.validationLoss);
  });

  it("start from the weights where a run turns to them late", async () => {
    await train("late", "train.steps=6", "checkpoint.every=3");
    const { text, weights } = await resume("late", "resume=step-000003", "train.ema_decay=0.9");
    expect(text).toContain("changed from here on: train.ema_decay 0 -> 0.9");
    expect(weights).not.toBe(checkpointWeights("late", "step-000006"));
  });
});

describe("patience", () => {
  const early = [
    "train.steps=30",
    "train.learning_rate=0.5",
    "train.schedule=constant",
    "eval.every=1",
    "eval.patience=2",
  ];

  it("ends a run that no longer gets better, with the best model, also when it is resumed", async () => {
    const { steps, weights, metrics, text, records } = await train("early", ...early);
    expect(steps).toBeLessThan(30);
    expect(text).toContain(`ended at step ${steps}: 2 measurements without a better one`);
    const losses = records.flatMap((r) => (r.loss === undefined ? [r.validation_loss as number] : []));
    expect(metrics!.validation_loss).toBe(Math.min(...losses));
    expect(steps).toBe(losses.indexOf(Math.min(...losses)) + 1 + 2);
    expect(weights).toBe(readFileSync(join(place("early"), "best/model.safetensors")).toString("base64"));
    const again = await resume("early");
    expect([again.steps, again.weights]).toEqual([steps, weights]);
  });

  it("counts nothing as better that is so by less than min_delta", async () => {
    const { steps } = await train("slow", ...early, "train.learning_rate=1e-3", "eval.min_delta=10");
    expect(steps).toBe(3);
  });

  it("needs measurements", async () => {
    await expect(train("none", "eval.patience=1", "eval.every=0")).rejects.toThrow(
      "eval.patience: counts measurements",
    );
  });
});
