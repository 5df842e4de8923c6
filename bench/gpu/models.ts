import { dispose, scope } from "../../core/device.ts";
import { noGrad } from "../../core/tape.ts";
import { assignInto, mul } from "../../kernels/index.ts";
import type { CausalLM } from "../../models/causal_lm.ts";
import { GPT2LMHeadModel } from "../../models/gpt2.ts";
import { parseGpt2Config } from "../../models/gpt2_config.ts";
import { Engine } from "../../serve/engine/engine.ts";
import { ModelRunner } from "../../serve/engine/runner.ts";
import { resolveSampling } from "../../serve/text/sampling.ts";
import { prepareTraining } from "../model_rows.ts";
import { bytesOf, deviceRandom, type GpuRow, type Kind } from "./kernels.ts";
import type { GpuSizes, ModelSize } from "./sizes.ts";

/** The ruler's model: a GPT-2 of that size, its weights made on the device; in f16 with copies of its matrices. */
function makeModel({ config }: ModelSize, precision: Kind): CausalLM {
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

/** Weights of the blocks' matrices and of the head, and operations of one token's forward pass seeing `length / 2` others. */
function costOf({ config }: ModelSize, length: number): { weights: number; forward: number } {
  const { n_embd: d, n_layer: layers, vocab_size: vocabulary } = config;
  const weights = 12 * layers * d * d + vocabulary * d;
  return { weights, forward: 2 * weights + 2 * layers * d * length };
}

/** In f16, mixed precision: f32 weights and moments, f16 copies, a dynamic loss scale. */
function trainingRow(size: ModelSize, role: string, precision: Kind): GpuRow {
  const { task, rows, length } = size;
  const tokens = rows * length;
  const { weights, forward } = costOf(size, length);
  return {
    name: `train_${task}_B${rows}_T${length} ${precision}`,
    task: `train_${task}_B${rows}_T${length}`,
    role: `${role} ${precision}`,
    precision,
    flops: 3 * forward * tokens,
    // Weights read twice; gradients and both moments written and read; weights written.
    bytes: 4 * 10 * weights,
    unit: "GFLOP/s",
    tokens,
    prepare: (device) => prepareTraining(device, makeModel(size, precision), rows, length),
  };
}

/** From a fresh process's open device to the end of the first update: model, compilation, step. */
export function firstStepRow({ models: { tinyllm } }: GpuSizes): GpuRow {
  const training = trainingRow(tinyllm, "first step", "f32");
  return { ...training, name: `first_step_${tinyllm.task}`, task: `first_step_${tinyllm.task}`, once: true };
}

/** Greedy answers to `batch` prompts by the server's engine: prompt pass, every new token, sampling. */
function decodingRow(
  size: ModelSize,
  role: string,
  batch: number,
  precision: Kind,
  { prompt, fresh }: GpuSizes["decode"],
): GpuRow {
  const task = `decode_${size.task}_B${batch}_in${prompt}_out${fresh}`;
  const { weights, forward } = costOf(size, prompt + fresh);
  return {
    name: `${task} ${precision}`,
    task,
    role: `${role} ${precision} ${batch}`,
    precision,
    flops: forward * batch * (prompt + fresh),
    bytes: bytesOf[precision] * weights * fresh,
    unit: "GB/s",
    tokens: batch * fresh,
    prepare: () => prepareGeneration(makeModel(size, precision), batch, prompt, fresh),
  };
}

/** `batch` greedy answers of `fresh` tokens to made-up prompts, by the engine. */
export function prepareGeneration(model: CausalLM, batch: number, prompt: number, fresh: number) {
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
  const sampling = { ...resolveSampling({ temperature: 0 }, vocab_size, () => [0, 0]), choice: 0 };
  let requests = 0;
  const answerAll = () =>
    new Promise<void>((resolve, reject) => {
      let open = batch;
      const one = (i: number) => ({
        request: {
          id: `row-${requests++}`,
          client: "bench",
          prompt: Array.from({ length: prompt }, (_, t) => (i * 31 + t * 7919) % vocab_size),
          sampling,
          maxTokens: fresh,
          minTokens: fresh,
          stopTokenIds: new Set<number>(),
          priority: 0,
          topLogprobs: null,
          scorePrompt: false,
        },
        listener: ({ finish, error }: { finish: unknown; error: unknown }) => {
          if (finish === "error") reject(failures[0] ?? error);
          else if (finish && --open === 0) resolve();
        },
      });
      engine.submit(Array.from({ length: batch }, (_, i) => one(i)));
    });
  return {
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
  const decode = (size: ModelSize, role: string, batch: number, precision: Kind = "f32") =>
    decodingRow(size, role, batch, precision, sizes.decode);
  return {
    training: [
      trainingRow(gpt2, "train gpt2", "f32"),
      trainingRow(gpt2, "train gpt2", "f16"),
      trainingRow(tinyllm, "train tinyllm", "f32"),
      trainingRow(tinyllm, "train tinyllm", "f16"),
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
