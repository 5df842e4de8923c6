import { afterAll, beforeAll, expect, test } from "vitest";
import { setDevice } from "../core/device.ts";
import type { DeviceProfile } from "../core/op.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { Tuner } from "../core/webgpu/tuner.ts";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";

/**
 * What a GPU would be given, run by the adapter at hand: software adapters can run the kernels that GPUs are given (workgroup
 * memory, barriers), slowly. Whole models must come out as they do with the adapter's own choices.
 */
let gpu: WebGpuDevice;
let own: DeviceProfile["class"];
beforeAll(async () => {
  gpu = await openDevice();
  own = gpu.profile.class;
});
afterAll(() => setDevice(null));

const config = tinyllmConfig({ vocab_size: 96, hidden_size: 64, num_hidden_layers: 2 });

/** Runs `body` as if the adapter were of a class. Nothing is measured: it would compile every tile there is. */
async function as<T>(kind: DeviceProfile["class"], body: () => Promise<T>): Promise<T> {
  const { tuner } = gpu;
  Object.assign(gpu.profile, { class: kind });
  Object.assign(gpu, { tuner: new Tuner(false, null) });
  gpu.forgetLowered();
  try {
    return await body();
  } finally {
    Object.assign(gpu.profile, { class: own });
    Object.assign(gpu, { tuner });
    gpu.forgetLowered();
  }
}

async function losses(): Promise<number[]> {
  const model = new LlamaForCausalLM(config).init(3);
  const optimizer = new AdamW(model.namedParameters(), { weightDecay: 0.1 });
  const trainer = new Trainer(model, optimizer, { maxGradNorm: 1, sequenceLength: 33 });
  const tokens = Int32Array.from({ length: 99 }, (_, i) => (i * 31) % 96);
  const batch = {
    tokens,
    targets: tokens.map((id) => (id * 7 + 5) % 96),
    positions: tokens.map((_, i) => i % 33),
    segments: new Int32Array(99),
    bytes: 99,
    supervised: 99,
  };
  await trainer.prepare([batch]);
  const found: number[] = [];
  for (let step = 0; step < 4; step++) found.push(await trainer.step([batch], 3e-3).lossSum.item());
  return found;
}

test("a model trains as it does with the adapter's own kernels", async () => {
  const [ours, theirs] = [await as(own, losses), await as("gpu", losses)];
  expect(theirs.at(-1)!).toBeLessThan(theirs[0] * 0.95);
  theirs.forEach((loss, i) => {
    expect(Math.abs(loss - ours[i]) / ours[i]).toBeLessThan(2e-5);
  });
});

test("the paged decoder's rows do not depend on what is in the batch", async () => {
  const model = new LlamaForCausalLM(config).init(4);
  const run = () =>
    as("gpu", async () => {
      const sizes = { numBlocks: 16, blockSize: 4, maxSequences: 8, maxBlocksPerSequence: 4 };
      const decoder = new PagedDecoder(model, sizes);
      const item = (n: number, blocks: number[]) => ({
        tokens: Array.from({ length: n }, (_, i) => (i * 13 + n) % 96),
        start: 0,
        blockTable: blocks,
        rows: [n - 1],
      });
      const alone = (await decoder.forward([item(9, [0, 1, 2])]))[0][0].slice();
      const others = [item(5, [3, 4]), item(9, [5, 6, 7]), item(14, [8, 9, 10, 11])];
      const among = (await decoder.forward(others))[1][0].slice();
      decoder.close();
      return { alone, among };
    });
  const { alone, among } = await run();
  expect(Array.from(among)).toEqual(Array.from(alone));
});
