import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import type { Tensor } from "../core/tensor.ts";
import { boundariesOf, dynamicMap, nearestCode } from "../kernels/include/blockwise.ts";
import { openDevice } from "../kernels/index.ts";
import {
  addAdapter,
  type CausalLM,
  dequantizeModel,
  loadAdapter,
  mergeAdapter,
  PagedDecoder,
  quantizeModel,
  removeAdapter,
  saveAdapter,
  useAdapter,
} from "../models/index.ts";
import { AdamW8bit } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";
import {
  difference,
  largest,
  logitsOf,
  positions,
  read,
  row,
  tinyGpt2,
  tinyLlama,
  tokens,
  valuesOf,
} from "./support/tiny_decoders.ts";
import { toyRuns } from "./support/train_toy.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-quantized-"));
beforeAll(async () => {
  setDevice(await openDevice());
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  setDevice(null);
});
const { train, resume } = toyRuns();

const models: [string, () => CausalLM][] = [
  ["llama", tinyLlama],
  ["gpt2", tinyGpt2],
];

it("NF4, the 8-bit maps and the states of 8-bit AdamW have the reference's bits", async () => {
  const lines: string[] = [];
  const found = await verify(golden, { write: (line) => lines.push(line), filter: "quant" });
  expect(found, lines.join("\n")).toMatchObject({ passed: 4, failed: 0, skipped: 0 });
});

it("a number takes the nearest value of a map, in whatever block", () => {
  const map = dynamicMap(true);
  const boundaries = boundariesOf(map);
  fc.assert(
    fc.property(fc.float({ min: -1, max: 1, noNaN: true }), (x) => {
      const found = Math.abs(map[nearestCode(boundaries, x)] - x);
      expect(found).toBe(Math.min(...Array.from(map, (value) => Math.abs(value - x))));
    }),
  );
  for (const [i, upper] of map.subarray(1).entries()) {
    const middle = (map[i] + upper) / 2;
    // A value in the middle, where f32 has one, goes down.
    if (Math.fround(middle) === middle) expect(nearestCode(boundaries, middle)).toBe(i);
  }
});

describe.each(models)("a quantized %s", (_, make) => {
  const config = { target_modules: "all-linear", use_dora: true };

  it("computes with the weights that it stands for, in a quarter of the memory", async () => {
    const model = make();
    const before = await read(model);
    const bytes = model.headWeight.device.bytesInUse;
    await quantizeModel(model);
    const saved = bytes - model.headWeight.device.bytesInUse;
    expect(saved).toBeGreaterThan(0.5 * 4 * model.numParameters);
    const quantized = await read(model);
    // The quantization error is there, and is no nonsense.
    expect(difference(quantized, before)).toBeGreaterThan(1e-3 * largest(before));
    expect(difference(quantized, before)).toBeLessThan(0.5 * largest(before));
    await dequantizeModel(model);
    expect(difference(await read(model), quantized)).toBeLessThan(1e-5 * largest(quantized));
    expect([...model.stateDict().keys()]).toEqual([...make().stateDict().keys()]);
  });

  it("serves the same bits in any batch, with an adapter too", async () => {
    const model = make();
    await quantizeModel(model);
    addAdapter(model, config, { seed: 4 });
    useAdapter(model, "default");
    const sizes = { numBlocks: 8, blockSize: 8, maxSequences: 2, maxBlocksPerSequence: 4 };
    const decoder = new PagedDecoder(model, sizes);
    const whole = { tokens, start: 0, blockTable: [2, 5, 1], rows: positions };
    const [paged] = await decoder.forward([whole]);
    const want = await read(model);
    expect(
      difference(
        paged!.flatMap((values) => Array.from(values)),
        want,
      ),
    ).toBeLessThan(1e-5 * largest(want));
    const other = { tokens: tokens.toReversed(), start: 0, blockTable: [0, 3, 4], rows: [] };
    expect((await decoder.forward([other, whole]))[1]).toEqual(paged);
    const [first] = await decoder.forward([{ ...whole, tokens: tokens.slice(0, 1), rows: [0] }]);
    expect(first![0]).toEqual(paged![0]);
    decoder.close();
  });

  it("has the adapter's gradients of the floating model, and is merged once it is one", async () => {
    const model = make();
    const slopes = () => {
      const leaves = [...model.trainedParameters().values()];
      const targets = row(tokens.slice(1).concat(-100));
      return valuesOf(
        scope(() =>
          grads(model.loss({ tokens: row(tokens), targets, positions: row(positions) }), leaves),
        ) as Tensor[],
      );
    };
    await quantizeModel(model);
    for (const [key, parameter] of addAdapter(model, config, { seed: 1 }).parameters())
      if (key.includes("lora_B"))
        parameter.write(Array.from({ length: parameter.size }, (_, i) => 0.1 * Math.sin(i)));
    useAdapter(model, "default");
    await expect(mergeAdapter(model, () => logitsOf(model))).rejects.toThrow(
      /is quantized.*dequantize the model/,
    );
    const [quantized, logits] = [await slopes(), await read(model)];
    await expect(dequantizeModel(model)).rejects.toThrow(/has adapters, which belong to its layers/);
    const path = join(folder, "adapter");
    await saveAdapter(path, model);
    removeAdapter(model, "default");
    await dequantizeModel(model);
    await loadAdapter(model, path);
    useAdapter(model, "default");
    const floating = await slopes();
    for (const [i, values] of quantized.entries())
      expect(difference(values, floating[i])).toBeLessThan(1e-4 * largest(floating[i]));
    const { drift, largest: most } = await mergeAdapter(model, () => logitsOf(model));
    expect(drift).toBeLessThan(1e-5 * most);
    expect(difference(await read(model), logits)).toBeLessThan(2e-5 * most);
  });
});

it("an adapter on a quantized model learns, with 8-bit AdamW", async () => {
  const model = models[0][1]();
  await quantizeModel(model);
  addAdapter(model, { target_modules: "all-linear", r: 8 }, { seed: 1 });
  useAdapter(model, "default");
  const optimizer = new AdamW8bit(model.trainedParameters(), { min8bitSize: 256 });
  expect([...optimizer.state().keys()].some((name) => name.startsWith("means_8bit."))).toBe(true);
  const trainer = new Trainer(model, optimizer, { maxGradNorm: 1, sequenceLength: tokens.length });
  const batch = {
    tokens: Int32Array.from(tokens),
    targets: Int32Array.from(tokens.slice(1).concat(-100)),
    positions: Int32Array.from(positions),
    segments: new Int32Array(tokens.length),
    bytes: tokens.length,
    supervised: tokens.length - 1,
  };
  const losses: number[] = [];
  for (let step = 0; step < 10; step++) losses.push(await trainer.step([batch], 0.01).lossSum.item());
  expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]);
});

describe("8-bit AdamW", () => {
  it("stays near AdamW's way, and a run with it resumes bit for bit", async () => {
    const settings = ["train.optimizer.name=adamw_8bit", "train.optimizer.min_8bit_size=256"];
    const rest = ["train.schedule=constant", "sample.every=0"];
    const whole = await train("whole", ...settings, ...rest, "train.steps=4");
    await train("half", ...settings, ...rest, "train.steps=2");
    const resumed = await resume("half", "train.steps=4");
    expect(resumed.weights).toBe(whole.weights);
    const f32 = await train("f32", ...rest, "train.steps=4");
    const losses = ({ records }: typeof whole) =>
      records.flatMap(({ loss }) => (typeof loss === "number" ? [loss] : []));
    expect(losses(whole)).not.toEqual(losses(f32));
    for (const [i, loss] of losses(whole).entries())
      expect(Math.abs(loss - losses(f32)[i])).toBeLessThan(1e-3);
  });
});
