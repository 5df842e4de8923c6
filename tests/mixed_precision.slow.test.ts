import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { fromHalf, toHalf } from "../core/dtype.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { cast, globalNorm, linearCrossEntropy, mul, openDevice, openReference } from "../kernels/index.ts";
import {
  assertComputeDtype,
  createModel,
  type ModelConfig,
  parseModelConfig,
} from "../models/architectures.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { PagedDecoder, type PagedItem } from "../models/paged_decoder.ts";
import { type ComputeDtype, Linear } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { type Batch, cachedShard, PackedBatches, storySource, type TokenShard } from "../train/data/index.ts";
import { Adagrad, Adam, AdamW, Muon, type Optimizer, Rmsprop, Sgd } from "../train/optimizers/index.ts";
import { type LossScaleOptions, LossScaler, readLossScaler } from "../train/optimizers/loss_scaler.ts";
import { parsePretrainConfig, pretrain } from "../train/recipes/pretrain.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { loadCheckpoint, readTrainerState, saveCheckpoint, type TrainerState } from "../train/run_files.ts";
import { Trainer } from "../train/trainer.ts";
import { generator } from "./support/ops_harness.ts";

// On a machine without a GPU the other tests run on an adapter without f16; this file takes the one that has it.
process.env.KILN_ADAPTER = process.env.KILN_F16_ADAPTER ?? process.env.KILN_ADAPTER ?? "auto";

const seqLen = 32;
const vocabulary = 300;
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  if (!gpu.profile.f16) console.warn(`mixed precision is not tested: ${gpu.profile.name} has no shader-f16`);
});
afterAll(() => setDevice(null));

/** Leaves a test out where the adapter has no f16. */
const needsF16 = (context: TestContext) => {
  if (!gpu.profile.f16) context.skip("no shader-f16");
};
const folder = () => mkdtempSync(join(tmpdir(), "kiln-mixed-"));
const valuesOf = (tensors: Iterable<Tensor>) =>
  Promise.all([...tensors].map(async (t) => Array.from(await t.data())));

describe("a loss scaler", () => {
  /** The states after updates that overflow (0) or not (1). */
  const states = async (options: LossScaleOptions, updates: readonly number[]) => {
    const scaler = new LossScaler(options);
    const seen = updates.map((scale) => {
      scaler.update(tensor([scale]));
      return scaler.snapshot();
    });
    return Promise.all(seen.map(readLossScaler));
  };

  it("starts, grows and shrinks as torch.amp.GradScaler", async () => {
    const [first] = await states({}, [1]);
    expect(first).toEqual({ loss_scale: 65536, growth_tracker: 1, applied: 1, skipped: 0 });
    const all = await states({ init_scale: 8, growth_interval: 3 }, [1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1]);
    expect(all.map((s) => s.loss_scale)).toEqual([8, 8, 16, 16, 8, 8, 8, 4, 2, 2, 2, 4]);
    expect(all.map((s) => s.growth_tracker)).toEqual([1, 2, 0, 1, 0, 1, 2, 0, 0, 1, 2, 0]);
    expect(all.at(-1)).toMatchObject({ applied: 9, skipped: 3 });
  });
});

describe("optimizers that skip an update", () => {
  const next = generator("mixed precision");
  const random = (count: number) => Array.from({ length: count }, () => next() * 2 - 1);
  const shapes: Record<string, number[]> = { weight: [6, 9], bias: [9] };
  const start = [random(54), random(9)];
  const gradients = Array.from({ length: 5 }, () => [random(54), random(9)]);
  const make: Record<string, (named: Map<string, Tensor>) => Optimizer> = {
    adamw: (named) => new AdamW(named, { weightDecay: 0.1, decays: (_name, t) => t.rank >= 2 }),
    adam: (named) => new Adam(named, { weightDecay: 0.1, betas: [0.9, 0.98] }),
    sgd: (named) => new Sgd(named, { momentum: 0.9, dampening: 0.1, nesterov: true }),
    rmsprop: (named) => new Rmsprop(named),
    adagrad: (named) => new Adagrad(named, { lrDecay: 0.1 }),
    muon: (named) => new Muon(named),
  };

  /** Parameters, states and scaler after every update; null stands for gradients that overflowed. */
  async function train(name: string, updates: readonly (number | null)[], scaled: boolean) {
    const names = name === "muon" ? ["weight"] : Object.keys(shapes);
    const named = new Map(names.map((n, i) => [n, tensor(start[i], shapes[n])]));
    const optimizer = make[name](named);
    const scaler = scaled ? new LossScaler() : null;
    const seen: number[][][] = [];
    for (const update of updates) {
      optimizer.lr = 0.01;
      const factor = scaler?.upstream(tensor([1])) ?? tensor([1]);
      const given = names.map((n, i) => mul(tensor(gradients[update ?? 0][i], shapes[n]), factor));
      if (update === null) given.push(tensor([Number.POSITIVE_INFINITY]));
      const { scale } = globalNorm(given, { factor: scaler?.unscale() ?? tensor([1]), maxNorm: 1 });
      optimizer.step(given.slice(0, names.length), scale, scaler?.state);
      scaler?.update(scale);
      seen.push(await valuesOf([...named.values(), ...optimizer.state().values()]));
    }
    return { seen, scaler: scaler && (await readLossScaler(scaler.state)) };
  }

  it.each(Object.keys(make))(
    "%s: is then where it would be without that batch, bit for bit",
    async (name) => {
      const { seen, scaler } = await train(name, [null, 0, 1, null, null, 2, 3], true);
      const without = await train(name, [0, 1, 2, 3], true);
      expect(seen[3]).toEqual(seen[2]);
      expect(seen[4]).toEqual(seen[2]);
      expect([seen[1], seen[2], seen[5], seen[6]]).toEqual(without.seen);
      expect(scaler).toEqual({ loss_scale: 8192, growth_tracker: 2, applied: 4, skipped: 3 });
      // The device counts as the host does, which knows of no skipped updates.
      const plain = await train(name, [0, 1, 2, 3, 4, 0, 1, 2], false);
      const counted = await train(name, [0, 1, 2, 3, 4, 0, 1, 2], true);
      plain.seen
        .at(-1)!
        .flat()
        .forEach((value, i) => {
          expect(counted.seen.at(-1)!.flat()[i]).toBeCloseTo(value, 5);
        });
    },
  );
});

describe("the head's cross-entropy in f16", () => {
  it("has f32 logits, loss and weight gradient, and derivatives that a scale keeps from vanishing", async (context) => {
    needsF16(context);
    const next = generator("head");
    // Shapes of the training below, so that no more kernels must be compiled.
    const [tokens, classes, width] = [seqLen * 4, vocabulary, 32];
    const halves = (count: number, size: number) =>
      Array.from({ length: count }, () => fromHalf(toHalf((next() - 0.5) * size)));
    const hidden = halves(tokens * width, 2);
    const weight = halves(classes * width, 1);
    const targets = Array.from({ length: tokens }, (_, i) => (i % 7 ? i % classes : -100));
    const run = (on: Device) =>
      withDevice(on, () => {
        const h = tensor(hidden, [tokens, width], "f16").requireGrad();
        const w = tensor(weight, [classes, width], "f16").requireGrad();
        const upstream = tensor([512]);
        const { loss } = linearCrossEntropy(h, w, tensor(targets, [tokens], "i32"), {
          upstream,
          chunkBytes: 64 * classes * 4,
        });
        return [loss, ...grads(loss, [h, w], { cotangents: [tensor([512], [])] })] as Tensor[];
      });
    const actual = run(gpu);
    expect(actual.map((t) => t.dtype)).toEqual(["f32", "f16", "f32"]);
    const expected = await valuesOf(run(new ReferenceDevice()));
    (await valuesOf(actual)).forEach((values, i) => {
      const largest = Math.max(...expected[i].map(Math.abs));
      // dlogits are rounded to f16, which has 11 bits; the loss is not.
      const allowed = largest * (i === 0 ? 1e-5 : 2e-3);
      values.forEach((v, k) => {
        expect(Math.abs(v - expected[i][k])).toBeLessThanOrEqual(allowed);
      });
    });
  });
});

let shard: TokenShard;
let tokenizer: Tokenizer;

beforeAll(async () => {
  const source = storySource({ seed: 1, stories: 30 });
  const texts: string[] = [];
  for await (const { text } of source.documents()) texts.push(text);
  tokenizer = new Tokenizer(trainBpe(texts, { vocab_size: vocabulary, special_tokens: ["<|endoftext|>"] }));
  ({ shard } = await cachedShard(source, tokenizer, folder()));
});

const config = () =>
  tinyllmConfig({
    vocab_size: tokenizer.vocabSize,
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 64,
  });

function newTrainer(dtype: ComputeDtype, lossScale: LossScaleOptions = {}, decoder: ModelConfig = config()) {
  const model = createModel(decoder).computeIn(dtype).init(7);
  const optimizer = new AdamW(model.namedParameters(), {
    betas: [0.9, 0.95],
    weightDecay: 0.1,
    decays: (_, p) => p.rank >= 2,
  });
  return new Trainer(model, optimizer, {
    maxGradNorm: 1,
    sequenceLength: seqLen,
    lossScale,
    dropoutSeed: 3,
  });
}

function batches(batchSize = 4): () => Batch {
  const data = new PackedBatches(shard, shard.documents, { batchSize, seqLen, seed: 2 });
  return () => data.next();
}

/** Weights, f16 copies, moments. */
const everything = ({ model, optimizer }: Trainer) =>
  valuesOf([
    ...model.parameters(),
    ...model.parameters().flatMap((p) => p.half ?? []),
    ...optimizer.state().values(),
  ]);

async function step(trainer: Trainer, micro: readonly Batch[], learningRate = 3e-3) {
  const { lossSum, supervised, gradNorm, scaler } = trainer.step(micro, learningRate);
  return {
    loss: (await lossSum.item()) / supervised,
    norm: await gradNorm.item(),
    ...(scaler && (await readLossScaler(scaler))),
  };
}

describe("training in f16", () => {
  it("follows the f32 loss curve within 2% at each of 30 steps, down by more than a nat", async (context) => {
    needsF16(context);
    const curve = async (dtype: ComputeDtype) => {
      const trainer = newTrainer(dtype);
      const next = batches();
      const losses: number[] = [];
      for (let i = 0; i < 30; i++) losses.push((await step(trainer, [next()])).loss);
      return losses;
    };
    const [exact, mixed] = [await curve("f32"), await curve("f16")];
    mixed.forEach((loss, i) => {
      expect(Math.abs(loss / exact[i] - 1), `step ${i + 1}`).toBeLessThan(0.02);
    });
    const mean = (losses: number[]) => losses.reduce((a, b) => a + b) / losses.length;
    expect(mean(mixed.slice(-5))).toBeLessThan(mixed[0] - 1);
    // It was not the f32 run a second time.
    expect(mixed).not.toEqual(exact);
  });

  it("trains a GPT-2: its biases, norms, positions and dropout too, as float64 does", async (context) => {
    needsF16(context);
    const sizes = { n_embd: 32, n_layer: 1, n_head: 2, n_positions: 64, vocab_size: vocabulary };
    const decoder = parseModelConfig({ model_type: "gpt2", ...sizes, attn_pdrop: 0.2 });
    const [first, second] = Array.from({ length: 2 }, batches());
    const run = async () => {
      const trainer = newTrainer("f16", {}, decoder);
      return [await step(trainer, [first!]), await step(trainer, [second!])];
    };
    const actual = await run();
    openReference();
    const expected = await run().finally(() => setDevice(gpu));
    actual.forEach(({ loss, norm, applied }, i) => {
      expect(Math.abs(loss / expected[i].loss - 1)).toBeLessThan(1e-3);
      expect(Math.abs(norm / expected[i].norm - 1)).toBeLessThan(5e-3);
      expect(applied).toBe(i + 1);
    });
  });

  it("skips updates that overflow, leaves everything as it was, and finds the scale that fits", async (context) => {
    needsF16(context);
    const next = batches();
    const data = Array.from({ length: 4 }, next);
    const trainer = newTrainer("f16", { init_scale: 2 ** 40 });
    const before = await everything(trainer);
    let seen = await step(trainer, [data[0]]);
    expect(seen).toMatchObject({ loss_scale: 2 ** 39, skipped: 1, applied: 0 });
    expect(Number.isFinite(seen.norm)).toBe(false);
    while (seen.applied === 0) {
      expect(await everything(trainer)).toEqual(before);
      seen = await step(trainer, [data[0]]);
    }
    expect(await everything(trainer)).not.toEqual(before);
    expect(Number.isFinite(seen.norm)).toBe(true);
    const earlier = seen.skipped!;
    // The same updates with that scale from the start: bias corrections included, nothing of the skipped ones is left.
    const other = newTrainer("f16", { init_scale: seen.loss_scale! });
    const again = [await step(other, [data[0]])];
    expect(again[0]).toMatchObject({ loss: seen.loss, norm: seen.norm, applied: 1, skipped: 0 });
    for (const batch of data.slice(1)) {
      const [a, b] = [await step(trainer, [batch]), await step(other, [batch])];
      const past = a.skipped! - b.skipped!;
      expect({ ...a, skipped: b.skipped }).toEqual(b);
      expect(past).toBe(earlier);
    }
    expect(await everything(trainer)).toEqual(await everything(other));
  });

  it("adds up micro-batches in f32, and one that overflows skips the whole update", async (context) => {
    needsF16(context);
    const run = async (batchSize: number, pieces: number, options: LossScaleOptions = {}) => {
      const trainer = newTrainer("f16", options);
      const next = batches(batchSize);
      const before = await everything(trainer);
      const seen = [];
      for (let i = 0; i < 3; i++) seen.push(await step(trainer, Array.from({ length: pieces }, next)));
      return { seen, before, after: await everything(trainer) };
    };
    const whole = await run(4, 1);
    const cut = await run(2, 2);
    cut.seen.forEach(({ loss, norm }, i) => {
      expect(loss).toBeCloseTo(whole.seen[i].loss, 2);
      expect(norm / whole.seen[i].norm).toBeCloseTo(1, 2);
    });
    const overflown = await run(2, 2, { init_scale: 2 ** 60 });
    expect(overflown.seen.at(-1)).toMatchObject({ skipped: 3, loss_scale: 2 ** 57 });
    expect(overflown.after).toEqual(overflown.before);
  });

  it("goes on from a checkpoint bit for bit, in the middle of a growth interval", async (context) => {
    needsF16(context);
    const options = { init_scale: 1024, growth_interval: 3 };
    const data = Array.from({ length: 6 }, batches());
    const whole = newTrainer("f16", options);
    const straight = [];
    for (const batch of data) straight.push(await step(whole, [batch]));
    expect(straight.map((s) => s.loss_scale)).toEqual([1024, 1024, 2048, 2048, 2048, 4096]);
    const stateOf = (trainer: Trainer) => ({
      model: trainer.model,
      tokenizer,
      tensors: trainer.state(),
    });
    const first = newTrainer("f16", options);
    for (const batch of data.slice(0, 4)) await step(first, [batch]);
    const saved = { format: "kiln-trainer", version: 2, step: 4 } as TrainerState;
    const path = await saveCheckpoint(folder(), stateOf(first), saved, 1);
    const second = newTrainer("f16", options);
    await loadCheckpoint(path, second.model, second, (await readTrainerState(path)).step);
    const resumed = [];
    for (const batch of data.slice(4)) resumed.push(await step(second, [batch]));
    expect(resumed).toEqual(straight.slice(4));
    expect(await everything(second)).toEqual(await everything(whole));
  });

  it("is a setting of kiln train pretrain, which logs the scale and what was skipped", async (context) => {
    needsF16(context);
    const out = join(folder(), "run");
    const text = JSON.stringify({
      data: { corpus: { stories: 40 } },
      tokenizer: { vocab_size: vocabulary },
      model: { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2 },
      train: {
        steps: 5,
        batch_size: 4,
        sequence_length: seqLen,
        warmup_steps: 0,
        compute_dtype: "f16",
        loss_scale: { init_scale: 2 ** 60, backoff_factor: 2 ** -20 },
      },
      eval: { tokens: 64 },
      out_dir: out,
    });
    const made = await pretrain({
      config: parsePretrainConfig(text, "run.yaml"),
      say: () => {},
      makeSampler: () => async () => "",
    });
    const records = readMetrics(join(out, "log.jsonl")).filter((r) => "loss" in r);
    expect(records.map((r) => r.loss_scale)).toEqual([2 ** 40, 2 ** 20, 1, 1, 1]);
    expect(records.map((r) => r.skipped)).toEqual([1, 2, 3, 3, 3]);
    expect(made.model.parameters().every((p) => p.dtype === "f32")).toBe(true);
    expect(made.metrics!.validation_loss).toBeLessThan(5.75);
  });
});

describe("answering in f16", () => {
  it("keeps matrices and cache in half the bytes, and answers alone as in company, bit for bit", async (context) => {
    needsF16(context);
    const wide = { ...config(), initializer_range: 0.3, num_key_value_heads: 1 };
    const sizes = { numBlocks: 12, blockSize: 8, maxSequences: 4, maxBlocksPerSequence: 4 };
    const bytes = gpu.bytesInUse;
    const model = createModel(wide, "f16").init(3);
    const decoder = new PagedDecoder(model, sizes);
    const half = gpu.bytesInUse - bytes;
    const exact = createModel(wide).init(3);
    exact.newCache(sizes.numBlocks, sizes.blockSize);
    expect(half / (gpu.bytesInUse - bytes - half)).toBeLessThan(0.6);
    expect([model.computeDtype, exact.computeDtype]).toEqual(["f16", "f32"]);
    const item = (first: number, length: number) => ({
      tokens: Array.from({ length }, (_, i) => (17 * (first + i)) % vocabulary),
      start: 0,
      blockTable: [3 * first, 3 * first + 1, 3 * first + 2],
      rows: [length - 1],
    });
    const items: (PagedItem & { tokens: number[] })[] = [item(0, 19), item(1, 1), item(2, 11)];
    const together = await decoder.forward(items);
    for (const [i, one] of items.entries()) {
      expect(await decoder.forward([one])).toEqual([together[i]]);
      const { tokens } = one;
      const shape = [1, tokens.length];
      const logits = noGrad(() => {
        const positions = tensor([...tokens.keys()], shape, "i32");
        return exact.logits(exact.hidden(tensor(tokens, shape, "i32"), { positions }));
      });
      const expected = Array.from(await logits.data()).slice(-vocabulary);
      const largest = Math.max(...expected.map(Math.abs));
      together[i][0].forEach((v, k) => {
        expect(Math.abs(v - expected[k])).toBeLessThan(0.02 * largest);
      });
    }
  });

  it("is entered and left by a step that was compiled before", async (context) => {
    needsF16(context);
    const layer = new Linear(2, 1, { bias: false });
    layer.weight.write([1, 1 + 2 ** -13]);
    const step = compile((x: Tensor) => noGrad(() => layer.forward(cast(x, layer.weight.compute.dtype))));
    const x = tensor([0, 1], [1, 2]);
    for (const [dtype, expected] of [
      ["f32", 1 + 2 ** -13],
      ["f16", 1],
      ["f32", 1 + 2 ** -13],
    ] as const) {
      layer.weight.computeIn(dtype);
      expect(await step(x).item()).toBe(expected);
    }
  });

  it("is refused in one line where the adapter has no f16", () => {
    const without = { profile: { ...gpu.profile, name: "an adapter", f16: false } } as unknown as Device;
    withDevice(without, () => {
      expect(() => assertComputeDtype("f16", "use --dtype f32")).toThrow(
        "an adapter cannot compute in f16 (it has no shader-f16): use --dtype f32",
      );
      expect(() => noGrad(() => assertComputeDtype("f32", ""))).not.toThrow();
    });
  });
});
