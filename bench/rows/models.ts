import { dispose, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import { assignInto, mul } from "../../kernels/index.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { GPT2LMHeadModel } from "../../models/gpt2.ts";
import { parseGpt2Config } from "../../models/gpt2_config.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { type LlamaConfig, tinyllmConfig } from "../../models/llama_config.ts";
import type { Model } from "../../models/model.ts";
import { PagedDecoder } from "../../models/paged_decoder.ts";
import { Engine } from "../../serve/engine/engine.ts";
import { ModelRunner } from "../../serve/engine/runner.ts";
import { AdamW } from "../../train/optimizers/index.ts";
import { type Objective, Trainer, type TrainerOptions } from "../../train/trainer.ts";
import { batchOf, madeUpTokens } from "../data.ts";
import { deviceRandom } from "./kernels.ts";
import { bytesOf, type GpuRow, type Precision, type Prepared, type Row } from "./row.ts";
import { plainRequest } from "./serving.ts";
import type { GpuSizes, ModelSize } from "./sizes.ts";

/** The ruler's model: a GPT-2 of that size, its weights made on the device; in f16 with copies of its matrices. */
function makeModel({ config }: ModelSize, precision: Precision): CausalLM {
  const model = new GPT2LMHeadModel(parseGpt2Config({ model_type: "gpt2", ...config }));
  noGrad(() =>
    model.parameters().forEach((parameter, i) => {
      // Uniform numbers of standard deviation 0.02.
      scope(() => {
        const values = deviceRandom([...parameter.shape], i + 1);
        assignInto(parameter, mul(values, 0.02 * Math.sqrt(3)));
        dispose(values);
      });
    }),
  );
  return model.computeIn(precision);
}

/** What a decoder computes: weights of its matrices (the embedding once, as the head), operations of a token that sees `seen`. */
export interface Cost {
  weights: number;
  forward: (seen: number) => number;
}

function gpt2Cost({ n_embd: d, n_layer: layers, vocab_size }: ModelSize["config"]): Cost {
  const weights = 12 * layers * d * d + vocab_size * d;
  return { weights, forward: (seen) => 2 * weights + 4 * layers * d * seen };
}

export function llamaCost(c: LlamaConfig): Cost {
  const { hidden_size: d, intermediate_size: i, num_hidden_layers: layers } = c;
  const heads = c.num_attention_heads + c.num_key_value_heads;
  const weights = layers * (2 * d * heads * c.head_dim + 3 * d * i) + d * c.vocab_size;
  return { weights, forward: (seen) => 2 * weights + 4 * layers * c.num_attention_heads * c.head_dim * seen };
}

/** One update on `rows` rows of `length` tokens: forward, backward, AdamW; clipping where `maxGradNorm` is not 0. */
function trainingRow(
  name: string,
  { weights, forward }: Cost,
  make: () => CausalLM,
  [rows, length]: readonly [number, number],
  maxGradNorm = 1,
): Row {
  return {
    name,
    flops: 3 * rows * length * forward((length + 1) / 2),
    // Weights read twice; gradients and both moments written and read; weights written.
    bytes: 4 * 10 * weights,
    unit: "GFLOP/s",
    tokens: rows * length,
    prepare: (device) => prepareTraining(device, make(), rows, length, maxGradNorm),
  };
}

const tinyllmShape = tinyllmConfig({ vocab_size: 2048 });

/** TinyLLM with a vocabulary of 2,048, untrained. */
export function tinyllm(): CausalLM {
  return new LlamaForCausalLM(tinyllmShape).init(1);
}

/** One update of TinyLLM on 8 rows of 128 tokens. */
export const tinyllmTrainRow = () =>
  trainingRow("train step TinyLLM 8x128", llamaCost(tinyllmShape), tinyllm, [8, 128]);

/**
 * One update of a GPT-2 of TinyLLM's size, without clipping: the very model that the peers train, with the same
 * tokens. Their loss is read back once a sample, as kiln waits once.
 */
export function gptTrainRow(): Row {
  const config = { vocab_size: 2048, n_embd: 128, n_layer: 4, n_head: 4, n_positions: 128 };
  const make = () => {
    const tokens = { bos_token_id: null, eos_token_id: null };
    return new GPT2LMHeadModel(parseGpt2Config({ model_type: "gpt2", ...config, ...tokens })).init(1);
  };
  const row = trainingRow("train step GPT-2 8x128", gpt2Cost(config), make, [8, 128], 0);
  return { ...row, peer: { op: "train", sizes: [...Object.values(config), 8] } };
}

/** One token of each of `batch` sequences of 128 tokens through TinyLLM's paged cache, logits read back. */
export function decodeRow(batch: number): Row {
  const context = 128;
  const { weights, forward } = llamaCost(tinyllmShape);
  const { num_hidden_layers, num_key_value_heads, head_dim, vocab_size } = tinyllmShape;
  const cached = 2 * num_hidden_layers * num_key_value_heads * head_dim * context;
  return {
    name: `decode TinyLLM batch ${batch}`,
    flops: batch * forward(context),
    bytes: 4 * (weights + batch * cached + batch * vocab_size),
    unit: "GB/s",
    tokens: batch,
    prepare: () => prepareDecoding(tinyllm(), batch, context),
  };
}

/** The ruler's training rows. In f16, mixed precision: f32 weights and moments, f16 copies, a dynamic loss scale. */
function rulerTraining(size: ModelSize, role: string, precision: Precision): GpuRow {
  const { task: model, rows, length, config } = size;
  const task = `train_${model}_B${rows}_T${length}`;
  const name = `${task} ${precision}`;
  const row = trainingRow(name, gpt2Cost(config), () => makeModel(size, precision), [rows, length]);
  return { ...row, task, role: `${role} ${precision}`, precision };
}

/** From a fresh process's open device to the end of the first update: model, compilation, step. */
export function firstStepRow({ models: { tinyllm: size } }: GpuSizes): GpuRow {
  const name = `first_step_${size.task}`;
  return { ...rulerTraining(size, "first step", "f32"), name, task: name, once: true };
}

/** Greedy answers to `batch` prompts by the server's engine: prompt pass, every new token, sampling. */
function rulerDecoding(
  size: ModelSize,
  role: string,
  batch: number,
  precision: Precision,
  { prompt, fresh }: GpuSizes["decode"],
): GpuRow {
  const task = `decode_${size.task}_B${batch}_in${prompt}_out${fresh}`;
  const { weights, forward } = gpt2Cost(size.config);
  return {
    name: `${task} ${precision}`,
    task,
    role: `${role} ${precision} ${batch}`,
    precision,
    flops: batch * (prompt + fresh) * forward((prompt + fresh) / 2),
    bytes: bytesOf[precision] * weights * fresh,
    unit: "GB/s",
    tokens: batch * fresh,
    prepare: () => prepareGeneration(makeModel(size, precision), batch, prompt, fresh),
  };
}

/** Updates of a model on `rows` rows of `length` made-up tokens; gradients are clipped to `maxGradNorm`, 0 leaves them. */
export async function prepareTraining(
  device: WebGpuDevice,
  model: CausalLM,
  rows: number,
  length: number,
  maxGradNorm = 1,
): Promise<Prepared> {
  const batch = batchOf(madeUpTokens(rows * length, model.shape.vocab_size), length);
  return prepareUpdates(device, model, batch, { maxGradNorm, sequenceLength: length });
}

/** Updates by AdamW of what is trained of a model, on one batch. */
export async function prepareUpdates<B extends { supervised: number }, I extends object>(
  device: WebGpuDevice,
  model: Model<never>,
  batch: B,
  options: TrainerOptions,
  objective?: Objective<B, I>,
): Promise<Prepared> {
  const optimizer = new AdamW(model.trainedParameters(), {
    betas: [0.9, 0.95],
    eps: 1e-8,
    weightDecay: 0.1,
    decays: (_name, parameter) => parameter.rank >= 2,
  });
  const trainer = new Trainer(model, optimizer, options, objective);
  await trainer.prepare([batch]);
  return {
    run: async (times) => {
      for (let i = 0; i < times; i++) {
        dispose(trainer.step([batch], 1e-3));
      }
      await device.sync();
    },
    dispose: () => {
      model.computeIn("f32");
      dispose([model.parameters(), optimizer.state()]);
    },
  };
}

/** One new token of each of `batch` sequences that are `context` tokens long with it; the logits are read back. */
export async function prepareDecoding(model: CausalLM, batch: number, context: number): Promise<Prepared> {
  const blockSize = 16;
  const blocks = Math.ceil(context / blockSize);
  const decoder = new PagedDecoder(model, {
    numBlocks: batch * blocks,
    blockSize,
    maxSequences: batch,
    maxBlocksPerSequence: blocks,
  });
  const tables = Array.from({ length: batch }, (_, s) =>
    Array.from({ length: blocks }, (_, b) => s * blocks + b),
  );
  const items = (start: number, tokens: number) =>
    tables.map((blockTable, s) => ({
      tokens: Array.from({ length: tokens }, (_, i) => (s + i) % model.shape.vocab_size),
      start,
      blockTable,
      rows: [tokens - 1],
    }));
  await decoder.forward(items(0, context));
  return {
    run: async (times) => {
      for (let i = 0; i < times; i++) await decoder.forward(items(context - 1, 1));
    },
    dispose: () => {
      decoder.close();
      dispose(model.parameters());
    },
  };
}

/** `batch` greedy answers of `fresh` tokens to made-up prompts, by the engine; `adapterOf` names the adapter of each on its runner. */
export function prepareGeneration(
  model: CausalLM,
  batch: number,
  prompt: number,
  fresh: number,
  adapterOf: (answer: number) => string | null = () => null,
) {
  const { num_hidden_layers, num_key_value_heads, head_dim, vocab_size } = model.shape;
  const length = prompt + fresh;
  const tokenBytes = 8 * num_hidden_layers * num_key_value_heads * head_dim;
  const runner = new ModelRunner(model, {
    maxModelLen: length,
    maxSequences: batch,
    // Room for all of them, in whole blocks, and some more.
    cacheBytes: tokenBytes * (length + 32) * (batch + 2),
  });
  const failures: unknown[] = [];
  const engine = new Engine({
    runner,
    maxSeqs: batch,
    maxBatchedTokens: 2048,
    onError: (error) => failures.push(error),
  });
  let requests = 0;
  const answerAll = () =>
    new Promise<void>((resolve, reject) => {
      let open = batch;
      const one = (i: number) => {
        const number = requests++;
        return {
          request: plainRequest(
            `row-${number}`,
            // Never the same twice, lest the cache have it.
            Array.from({ length: prompt }, (_, t) => (31 * number + 7919 * t) % vocab_size),
            fresh,
            adapterOf(i),
          ),
          listener: ({ finish, error }: { finish: unknown; error: unknown }) => {
            if (finish === "error") reject(failures[0] ?? error);
            else if (finish && --open === 0) resolve();
          },
        };
      };
      engine.submit(Array.from({ length: batch }, (_, i) => one(i)));
    });
  return {
    runner,
    run: async (times: number) => {
      for (let i = 0; i < times; i++) await answerAll();
    },
    dispose: () => {
      runner.close();
      model.computeIn("f32");
      dispose(model.parameters());
    },
  };
}

/** Rows of whole models: those of the bars, then the others. */
export function modelRows(sizes: GpuSizes): Record<"training" | "decoding" | "more", GpuRow[]> {
  const { tinyllm, gpt2 } = sizes.models;
  const [one, some, many] = sizes.decode.batches as [number, number, number];
  const decode = (size: ModelSize, role: string, batch: number, precision: Precision = "f32") =>
    rulerDecoding(size, role, batch, precision, sizes.decode);
  return {
    training: [
      rulerTraining(gpt2, "train gpt2", "f32"),
      rulerTraining(gpt2, "train gpt2", "f16"),
      rulerTraining(tinyllm, "train tinyllm", "f32"),
      rulerTraining(tinyllm, "train tinyllm", "f16"),
    ],
    decoding: (["f32", "f16"] as const).flatMap((precision) =>
      [one, many].map((batch) => decode(tinyllm, "decode tinyllm", batch, precision)),
    ),
    more: [
      decode(tinyllm, "decode tinyllm", some),
      decode(gpt2, "decode gpt2", one),
      decode(gpt2, "decode gpt2", one, "f16"),
      decode(gpt2, "decode gpt2", some),
      // By far the longest: nothing waits for them.
      decode(gpt2, "decode gpt2", many),
      decode(gpt2, "decode gpt2", many, "f16"),
    ],
  };
}
