import { KilnError } from "../core/errors.ts";
import { assertComputeDtype, createDecoder, type DecoderConfig, parseDecoderConfig } from "../models/auto.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { tinyllmConfig } from "../models/config.ts";
import { readJson } from "../models/files.ts";
import { gpt2Overrides } from "../models/gpt2_config.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import { PackedBatches } from "./data/index.ts";
import { Validation } from "./evaluate.ts";
import { AdamW } from "./optim.ts";
import { prepareData } from "./prepare_data.ts";
import { decisiveSettings, resumePoint } from "./resume.ts";
import { type PretrainOptions, type PretrainResult, type Run, runToEnd } from "./run.ts";
import { lockRun } from "./run_lock.ts";
import type { ScheduleConfig } from "./schedules.ts";
import { Trainer } from "./trainer.ts";

/**
 * Trains a decoder from scratch on text: corpus, tokenizer, packed batches, AdamW with warm-up and a schedule, validation
 * loss and bits per byte, samples, logs, and checkpoints from which a run goes on bit for bit.
 */
export async function pretrain(options: PretrainOptions): Promise<PretrainResult> {
  const { config } = options;
  const release = lockRun(config.out_dir);
  try {
    const resumeFrom = await resumePoint(config);
    const run = await prepare(options);
    try {
      return await runToEnd(run, resumeFrom);
    } finally {
      run.data.close();
    }
  } finally {
    release();
  }
}

async function prepare(options: PretrainOptions): Promise<Run> {
  const { config, say } = options;
  const { train } = config;
  assertComputeDtype(train.compute_dtype, "set train.compute_dtype to f32");
  const { tokenizer, ...data } = await prepareData(config, maxPositions(config), say);
  const packing = { batchSize: train.batch_size, seqLen: train.sequence_length };
  const batches = new PackedBatches(data.train.shard, data.train.documents, { ...packing, seed: train.seed });
  const decoder = await modelConfig(config, tokenizer);
  const model = createDecoder(decoder).computeIn(train.compute_dtype).init(train.seed);
  announce(model, decoder, train.sequence_length, say);
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
  const optimizer = new AdamW(model.namedParameters(), {
    betas: train.betas,
    eps: train.eps,
    weightDecay: train.weight_decay,
    // Vectors (norms, biases) are not decayed, as in GPT-3 and nanoGPT.
    decays: (_name, parameter) => parameter.rank >= 2,
  });
  return new Trainer(model, optimizer, {
    maxGradNorm: train.max_grad_norm,
    sequenceLength: train.sequence_length,
    lossScale: train.loss_scale,
  });
}

function maxPositions(config: PretrainConfig): number {
  return config.model.max_position_embeddings ?? Math.max(512, config.train.sequence_length);
}

async function modelConfig(config: PretrainConfig, tokenizer: Tokenizer): Promise<DecoderConfig> {
  const { preset: _preset, config: path, rope_theta, ...overrides } = config.model;
  const special = {
    bos_token_id: tokenizer.bosId,
    eos_token_id: tokenizer.eosId,
    vocab_size: tokenizer.vocabSize,
  };
  const rope =
    rope_theta === undefined ? {} : { rope_parameters: { rope_type: "default" as const, rope_theta } };
  const shape = Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined));
  const given = { ...shape, ...rope };
  if (path) {
    const file = (await readJson(path)) as { model_type?: unknown };
    const settings = { ...given, ...special };
    return parseDecoderConfig(
      { ...file, ...(file.model_type === "gpt2" ? gpt2Overrides(settings) : settings) },
      path,
    );
  }
  return tinyllmConfig({ max_position_embeddings: maxPositions(config), ...given, ...special });
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
  const parameters = model.numParameters.toLocaleString("en");
  say(`model: ${parameters} parameters, ${num_hidden_layers} layers of width ${hidden_size}`);
  const asked = Object.entries(config).flatMap(([key, value]) =>
    /(_pdrop|_dropout)$/.test(key) && value ? [key] : [],
  );
  if (asked.length > 0) say(`${asked.join(", ")} of the config: not applied, kiln trains without dropout`);
}
