import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice, openReference } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { type Batch, cachedShard, PackedBatches, storySource, type TokenShard } from "../train/data/index.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";

/** The promises of the training step: exact accumulation, exact packing, no leaks, the same on both devices. */
let gpu: WebGpuDevice;
let shard: TokenShard;
let tokenizer: Tokenizer;

beforeAll(async () => {
  gpu = await openDevice();
  const source = storySource({ seed: 1, stories: 30 });
  const texts: string[] = [];
  for await (const { text } of source.documents()) texts.push(text);
  tokenizer = new Tokenizer(trainBpe(texts, { vocab_size: 300, special_tokens: ["<|endoftext|>"] }));
  ({ shard } = await cachedShard(source, tokenizer, mkdtempSync(join(tmpdir(), "kiln-train-"))));
});
afterEach(() => setDevice(gpu));

const seqLen = 24;
const config = () =>
  tinyllmConfig({
    vocab_size: tokenizer.vocabSize,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 64,
  });

function newTrainer(maxGradNorm = 1) {
  const model = new LlamaForCausalLM(config()).init(7);
  const optimizer = new AdamW(model.namedParameters(), {
    betas: [0.9, 0.95],
    weightDecay: 0.1,
    decays: (_, p) => p.rank >= 2,
  });
  return new Trainer(model, optimizer, { maxGradNorm, sequenceLength: seqLen });
}

function batches(batchSize: number): PackedBatches {
  return new PackedBatches(shard, shard.documents, { batchSize, seqLen, seed: 2 });
}

async function parametersOf(trainer: Trainer): Promise<number[]> {
  const values = await Promise.all(trainer.model.parameters().map(async (p) => [...(await p.data())]));
  return values.flat();
}

describe("the training step", () => {
  it("gives the same update however a batch is cut into micro-batches (float64)", async () => {
    openReference();
    const run = async (batchSize: number, pieces: number) => {
      const trainer = newTrainer();
      const data = batches(batchSize);
      const losses: number[] = [];
      for (let step = 0; step < 3; step++) {
        const result = trainer.step(
          Array.from({ length: pieces }, () => data.next()),
          1e-2,
        );
        losses.push((await result.lossSum.item()) / result.supervised, await result.gradNorm.item());
      }
      return { losses, parameters: await parametersOf(trainer) };
    };
    const whole = await run(8, 1);
    const cut = await run(2, 4);
    whole.losses.forEach((loss, i) => {
      expect(cut.losses[i]).toBeCloseTo(loss, 12);
    });
    whole.parameters.forEach((p, i) => {
      expect(Math.abs(cut.parameters[i] - p)).toBeLessThan(1e-9);
    });
  });

  it("on the adapter: cut or whole, and like the float64 device", async () => {
    const run = async (batchSize: number, pieces: number) => {
      const trainer = newTrainer();
      const data = batches(batchSize);
      const losses: number[] = [];
      for (let step = 0; step < 4; step++) {
        const result = trainer.step(
          Array.from({ length: pieces }, () => data.next()),
          1e-2,
        );
        losses.push((await result.lossSum.item()) / result.supervised);
      }
      return losses;
    };
    const whole = await run(8, 1);
    const cut = await run(2, 4);
    openReference();
    const exact = await run(8, 1);
    exact.forEach((loss, i) => {
      expect(whole[i]).toBeCloseTo(loss, 4);
      expect(cut[i]).toBeCloseTo(loss, 4);
    });
    expect(exact[3]).toBeLessThan(exact[0]);
  });

  it("gives packed documents the loss that each has alone (float64)", async () => {
    openReference();
    const trainer = newTrainer();
    const spans = [...shard.documents].slice(0, 6).map((span, i) => ({ ...span, length: 5 + i }));
    const alone = [];
    for (const { start, length } of spans) alone.push(await lossOf(trainer, rowOf([{ start, length }])));
    // 5 + 6 + 7 = 18 and 8 + 9 = 17 tokens: two rows of up to 24.
    const packed =
      (await lossOf(trainer, rowOf(spans.slice(0, 3)))) + (await lossOf(trainer, rowOf(spans.slice(3, 5))));
    expect(packed).toBeCloseTo(
      alone.slice(0, 5).reduce((a, b) => a + b, 0),
      9,
    );
  });

  it("repeats itself bit for bit", async () => {
    const run = async () => {
      const trainer = newTrainer();
      const data = batches(4);
      for (let step = 0; step < 3; step++) trainer.step([data.next()], 1e-2);
      return parametersOf(trainer);
    };
    expect(await run()).toEqual(await run());
  });
});

async function lossOf(trainer: Trainer, batch: Batch): Promise<number> {
  return trainer.evaluate(batch).item();
}

/** One row that holds the given spans one after another, padded. */
function rowOf(spans: { start: number; length: number }[]): Batch {
  const column = (fill: number) => new Int32Array(seqLen).fill(fill);
  const batch: Batch = {
    tokens: column(0),
    targets: column(-100),
    positions: column(0),
    segments: column(99),
    bytes: 0,
    supervised: 0,
  };
  let at = 0;
  spans.forEach(({ start, length }, document) => {
    shard.read(start, length, batch.tokens, at);
    for (let i = 0; i < length; i++) {
      batch.positions[at + i] = i;
      batch.segments[at + i] = document;
      if (i + 1 < length) batch.targets[at + i] = batch.tokens[at + i + 1];
    }
    at += length;
  });
  return batch;
}
