import { KilnError } from "../../core/errors.ts";
import { assertComputeDtype, createDecoder, type DecoderConfig } from "../../models/auto.ts";
import type { CausalLM } from "../../models/causal_lm.ts";
import { loadWeights } from "../../models/formats/hf_directory.ts";
import { readModelWeights } from "../../models/formats/safetensors.ts";
import type { PretrainConfig } from "../config.ts";
import { PackedBatches } from "../data/index.ts";
import { assertOutside, prepareData } from "../data/text_data.ts";
import { Validation } from "../evaluate.ts";
import { decoderSettings, maxPositions, originOf } from "../model_settings.ts";
import { AdamW } from "../optimizers/index.ts";
import type { ScheduleConfig } from "../optimizers/schedules.ts";
import { decisiveSettings, resumePoint } from "../resume.ts";
import { type PretrainOptions, type PretrainResult, type Run, runToEnd } from "../run.ts";
import { lockRun } from "../run_lock.ts";
import { Trainer } from "../trainer.ts";

/**
 * Trains a decoder, from scratch or from the weights of another, on text: corpus, tokenizer, packed batches, AdamW with warm-up and a schedule, validation
 * loss and bits per byte, samples, logs, and checkpoints from which a run goes on bit for bit.
 */
export async function pretrain(options: PretrainOptions): Promise<PretrainResult> {
  const { config } = options;
  assertOutside(config.out_dir, config.data);
  const release = lockRun(config.out_dir);
  try {
    const resumeFrom = await resumePoint(config);
    const run = await prepare(options, resumeFrom);
    try {
      return await runToEnd(run, resumeFrom);
    } finally {
      run.data.close();
    }
  } finally {
    release();
  }
}

async function prepare(options: PretrainOptions, resumeFrom: string | null): Promise<Run> {
  const { config, say } = options;
  const { train } = config;
  assertComputeDtype(train.compute_dtype, "set train.compute_dtype to f32");
  const { init_from } = config.model;
  // A checkpoint has all that is needed of the model which the run started from.
  const origin = init_from ? (resumeFrom ?? (await originOf(init_from))) : null;
  const path = config.tokenizer.path ?? origin ?? undefined;
  const withTokenizer = { ...config, tokenizer: { ...config.tokenizer, path } };
  const { tokenizer, ...data } = await prepareData(withTokenizer, maxPositions(config), options);
  const packing = { batchSize: train.batch_size, seqLen: train.sequence_length };
  const batches = new PackedBatches(data.train.shard, data.train.documents, { ...packing, seed: train.seed });
  const decoder = await decoderSettings(config, tokenizer, origin);
  const model = createDecoder(decoder).computeIn(train.compute_dtype);
  announce(model, decoder, train.sequence_length, say);
  if (origin && !resumeFrom) {
    loadWeights(model, await readModelWeights(origin));
    say(`starting from ${origin}`);
  } else model.init(train.seed);
  const trainer = newTrainer(model, train);
  const rowsPerStep = train.batch_size * train.gradient_accumulation_steps;
  const totalSteps = train.epochs
    ? Math.max(1, Math.ceil((train.epochs * batches.rowsPerEpoch) / rowsPerStep))
    : (train.steps ?? 1000);
  const settings = decisiveSettings(config, {
    model: decoder,
    steps: totalSteps,
    tokenizer: tokenizer.hash(),
    data: data.hash,
  });
  return {
    options,
    config,
    state: { model, tokenizer, tensors: new Map([...trainer.optimizer.state(), ...trainer.state()]) },
    trainer,
    data,
    validation: new Validation(data.validation.shard, data.validation.documents, {
      seqLen: train.sequence_length,
      tokens: config.eval.tokens,
    }),
    batches,
    totalSteps,
    schedule: {
      name: train.schedule,
      warmup_steps: train.warmup_steps,
      total_steps: totalSteps,
      min_lr_ratio: train.min_lr_ratio,
    } as ScheduleConfig,
    settings,
    sampler: options.makeSampler(model, tokenizer),
    log: undefined as never,
    tokensSeen: 0,
    best: null,
  };
}

function newTrainer(model: CausalLM, train: PretrainConfig["train"]): Trainer {
  const optimizer = new AdamW(model.trainedParameters(), {
    betas: train.betas,
    eps: train.eps,
    weightDecay: train.weight_decay,
    // Vectors (norms, biases) are not decayed, as in GPT-3 and nanoGPT.
    decays: (_name, parameter) => parameter.rank >= 2,
  });
  return new Trainer(model, optimizer, {
    maxGradNorm: train.max_grad_norm,
    sequenceLength: train.sequence_length,
    dropoutSeed: train.seed,
    lossScale: train.loss_scale,
  });
}

/** Says what is trained, and refuses rows longer than the model's positions. */
function announce(
  model: CausalLM,
  config: DecoderConfig,
  sequenceLength: number,
  say: (line: string) => void,
): void {
  const { num_hidden_layers, hidden_size, max_position_embeddings: longest } = model.shape;
  if (sequenceLength > longest) {
    throw new KilnError(
      `train.sequence_length ${sequenceLength} is longer than the model's ${longest} positions; lower it`,
      { code: "config_invalid" },
    );
  }
  const parameters = [...model.trainedParameters().values()].reduce((sum, { size }) => sum + size, 0);
  say(
    `model: ${parameters.toLocaleString("en")} parameters, ${num_hidden_layers} layers of width ${hidden_size}`,
  );
  const rates = Object.entries(config).filter(([key, value]) => /(_pdrop|_dropout)$/.test(key) && value);
  if (rates.length > 0) say(`dropout in training: ${rates.map((rate) => rate.join(" ")).join(", ")}`);
}
