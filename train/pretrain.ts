import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { dispose } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import { assertComputeDtype, createDecoder, type DecoderConfig, parseDecoderConfig } from "../models/auto.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { saveModel } from "../models/checkpoint.ts";
import { tinyllmConfig } from "../models/config.ts";
import { atomicWriteFile, readJson, writeJson } from "../models/files.ts";
import { gpt2Overrides } from "../models/gpt2_config.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import {
  type DocumentSource,
  fileSource,
  PackedBatches,
  prepareShard,
  type Span,
  splitDocuments,
  storySource,
  type TokenShard,
  validationBatches,
} from "./data/index.ts";
import { readLossScaler } from "./loss_scaler.ts";
import { AdamW } from "./optim.ts";
import {
  loadCheckpoint,
  newestCheckpoint,
  type RunState,
  saveCheckpoint,
  type TrainerState,
} from "./run_files.ts";
import { RunLog } from "./run_log.ts";
import { type ScheduleConfig, scheduleFactor } from "./schedules.ts";
import { type StepResult, Trainer } from "./trainer.ts";

/** Continues a prompt with the model in training; made by the caller, since generation is the server's. */
export type Sampler = (
  prompt: string,
  options: { max_tokens: number; temperature: number; seed: number },
) => Promise<string>;

export interface PretrainOptions {
  config: PretrainConfig;
  /** Told once the model exists; returns how to sample from it. */
  makeSampler: (model: CausalLM, tokenizer: Tokenizer) => Sampler;
  /** Lines for the person who watches. */
  say: (line: string) => void;
  /** Stops after the running step: checkpoint, then a KilnError with exit code 130. */
  signal?: AbortSignal;
}

export interface PretrainResult {
  modelDir: string;
  lossCurve: string;
  steps: number;
  trainLoss: number;
  /** Mean nats per token over the held-out documents (a bounded number of batches), or null without any. */
  validationLoss: number | null;
  bitsPerByte: number | null;
  /** Samples before and after training, prompt first. */
  samples: { before: string[]; after: string[] };
  model: CausalLM;
  tokenizer: Tokenizer;
}

/** What the loop works with. */
interface Run {
  options: PretrainOptions;
  config: PretrainConfig;
  state: RunState;
  trainer: Trainer;
  shard: TokenShard;
  validation: Span[];
  batches: PackedBatches;
  totalSteps: number;
  schedule: ScheduleConfig;
  settingsHash: string;
  sampler: Sampler;
  log: RunLog;
  tokensSeen: number;
  bestValidationLoss: number | null;
}

/**
 * Trains a decoder from scratch on text: corpus, tokenizer, packed batches, AdamW with warm-up and a schedule, validation
 * loss and bits per byte, samples, logs, and checkpoints from which a run goes on bit for bit.
 */
export async function pretrain(options: PretrainOptions): Promise<PretrainResult> {
  const { config, say } = options;
  await mkdir(config.out_dir, { recursive: true }).catch((error) => {
    throw new KilnError(`cannot create ${config.out_dir}: ${(error as Error).message}; give another --out`);
  });
  const resumeFrom = await resumePoint(config);
  const run = await prepare(options, resumeFrom !== null);
  let step = 0;
  if (resumeFrom) {
    step = await resume(run, resumeFrom);
    say(`resuming ${config.out_dir} at step ${step} of ${run.totalSteps}`);
  }
  run.log = new RunLog(config.out_dir, { totalSteps: run.totalSteps, startStep: step });
  try {
    const before = step === 0 ? await sampleAll(run, 0) : [];
    const trainLoss = await loop(run, step);
    return await finish(run, before, trainLoss);
  } finally {
    run.log.close();
    run.shard.close();
  }
}

async function resumePoint(config: PretrainConfig): Promise<string | null> {
  const newest = await newestCheckpoint(config.out_dir);
  if (config.resume) {
    if (newest) return newest;
    throw new KilnError(
      `${config.out_dir} has no checkpoint to resume from; leave --resume out to start the run`,
    );
  }
  if (newest) {
    throw new KilnError(
      `${config.out_dir} holds a run already; add --resume to go on with it, or give another --out`,
    );
  }
  return null;
}

async function prepare(options: PretrainOptions, resuming: boolean): Promise<Run> {
  const { config, say } = options;
  const { train, data, out_dir } = config;
  assertComputeDtype(train.compute_dtype, "set train.compute_dtype to f32");
  const source = data.path ? fileSource(data.path, { field: data.field }) : storySource(data.corpus);
  const tokenizer = await prepareTokenizer(config, source, say);
  const { shard, isCached } = await prepareShard(source, tokenizer, join(out_dir, "tokens"));
  const { train: documents, validation } = splitDocuments(shard.documents, {
    fraction: data.validation_fraction,
    seed: train.seed,
  });
  const packing = { batchSize: train.batch_size, seqLen: train.sequence_length };
  const batches = new PackedBatches(shard, documents, { ...packing, seed: train.seed });
  say(
    `${source.name}: ${shard.header.documents.toLocaleString("en")} documents, ${shard.header.tokens.toLocaleString("en")} tokens` +
      `${isCached ? " (encoded before)" : ""}, ${validation.length} documents held out`,
  );
  const decoder = await modelConfig(config, tokenizer);
  const model = createDecoder(decoder).computeIn(train.compute_dtype).init(train.seed);
  announce(model, decoder, train.sequence_length, say);
  const trainer = newTrainer(model, train);
  const rowsPerStep = train.batch_size * train.gradient_accumulation_steps;
  const totalSteps = train.epochs
    ? Math.max(1, Math.ceil((train.epochs * batches.rowsPerEpoch) / rowsPerStep))
    : (train.steps ?? 1000);
  const settingsHash = hashSettings(config, decoder, totalSteps, tokenizer, await source.hash());
  if (!resuming) await writeJson(join(out_dir, "config.json"), config);
  return {
    options,
    config,
    state: { model, tokenizer, tensors: new Map([...trainer.optimizer.state(), ...trainer.state()]) },
    trainer,
    shard,
    validation,
    batches,
    totalSteps,
    schedule: {
      name: train.schedule,
      warmup_steps: train.warmup_steps,
      total_steps: totalSteps,
      min_lr_ratio: train.min_lr_ratio,
    } as ScheduleConfig,
    settingsHash,
    sampler: options.makeSampler(model, tokenizer),
    log: undefined as never,
    tokensSeen: 0,
    bestValidationLoss: null,
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

/** The given tokenizer, the one that this run trained before, or a new byte-level BPE of the corpus. */
async function prepareTokenizer(
  config: PretrainConfig,
  source: DocumentSource,
  say: (line: string) => void,
): Promise<Tokenizer> {
  if (config.tokenizer.path) return Tokenizer.load(config.tokenizer.path);
  const folder = join(config.out_dir, "tokenizer");
  if (config.resume && existsSync(folder)) return Tokenizer.load(folder);
  const texts: string[] = [];
  let characters = 0;
  for await (const text of source.documents()) {
    texts.push(text);
    characters += text.length;
    if (characters > tokenizerSample) break;
  }
  const endOfText = "<|endoftext|>";
  const json = trainBpe(texts, { vocab_size: config.tokenizer.vocab_size, special_tokens: [endOfText] });
  const tokenizer = new Tokenizer(json, {
    tokenizer_config: { bos_token: endOfText, eos_token: endOfText, model_max_length: maxPositions(config) },
  });
  tokenizer.save(folder);
  say(
    `tokenizer: byte-level BPE of ${tokenizer.vocabSize} tokens, trained on ${(characters / 1e6).toFixed(1)} MB of the corpus`,
  );
  return tokenizer;
}

/** Characters that decide the merges: more changes little. */
const tokenizerSample = 8e6;

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

/** What must be equal for a resumed run to give the same numbers; how often it logs may differ. */
function hashSettings(
  config: PretrainConfig,
  model: DecoderConfig,
  totalSteps: number,
  tokenizer: Tokenizer,
  corpus: string,
): string {
  const { epochs: _e, steps: _s, compute_dtype, loss_scale, ...train } = config.train;
  const decisive = {
    // Runs from before there was f16 go on too.
    ...(compute_dtype === "f16" && { compute_dtype, loss_scale }),
    train,
    model,
    totalSteps,
    corpus,
    tokenizer: tokenizer.hash(),
    held: config.data.validation_fraction,
  };
  return createHash("sha256").update(JSON.stringify(decisive)).digest("hex");
}

async function resume(run: Run, path: string): Promise<number> {
  const saved = await loadCheckpoint(path, run.state, run.settingsHash);
  run.batches.restore(saved.data);
  run.trainer.optimizer.steps = saved.step;
  run.tokensSeen = saved.tokens_seen;
  run.bestValidationLoss = saved.best_validation_loss;
  return saved.step;
}

/** All updates from `start` on; the loss of an update is read while the next one runs. */
async function loop(run: Run, start: number): Promise<number> {
  const { config, trainer, batches, totalSteps, log } = run;
  const { train, eval: evaluation, sample, checkpoint } = config;
  let pending: Promise<number> | null = null;
  let loss = Number.NaN;
  for (let step = start + 1; step <= totalSteps; step++) {
    const micro = Array.from({ length: train.gradient_accumulation_steps }, () => batches.next());
    const learningRate = train.learning_rate * scheduleFactor(run.schedule, step - 1);
    if (step === start + 1) await trainer.prepare(micro);
    const result = trainer.step(micro, learningRate);
    run.tokensSeen += micro.reduce((sum, b) => sum + b.tokens.length, 0);
    if (pending) loss = await pending;
    pending = settle(run, { step, learningRate, tokens: run.tokensSeen }, result);
    const due = (every: number) => step === totalSteps || (every > 0 && step % every === 0);
    const stopping = run.options.signal?.aborted ?? false;
    if (!due(evaluation.every) && !due(sample.every) && !due(checkpoint.every) && !stopping) continue;
    // What follows looks at the weights: this update must be known to be good first.
    loss = await pending;
    pending = null;
    if (due(evaluation.every)) await validate(run, step);
    if (due(sample.every) && step < totalSteps) log.samples(step, await sampleAll(run, step));
    if (due(checkpoint.every) || stopping) await save(run, step);
    if (stopping) throw interrupted(run, step);
  }
  return pending ? await pending : loss;
}

/** Gradients that overflow f16 even so are not a matter of scale. */
const smallestLossScale = 2 ** -24;

/**
 * Reads and logs an update's numbers; a loss or norm that is not finite ends the run. In mixed precision the norm may be:
 * that update was skipped, unless no scale is left to try.
 */
async function settle(
  run: Run,
  at: { step: number; learningRate: number; tokens: number },
  result: StepResult,
): Promise<number> {
  const { lossSum, gradNorm, supervised, scaler } = result;
  const [loss, norm, scaling] = await Promise.all([
    lossSum.item(),
    gradNorm.item(),
    scaler ? readLossScaler(scaler) : null,
  ]);
  dispose([lossSum, gradNorm, scaler]);
  const mean = loss / Math.max(supervised, 1);
  const lost = scaling ? scaling.loss_scale < smallestLossScale : !Number.isFinite(norm);
  if (!Number.isFinite(mean) || lost) {
    const good = await newestCheckpoint(run.config.out_dir);
    throw new KilnError(
      `step ${at.step}: the loss is ${mean} and the gradient norm ${norm}; ` +
        `${good ? `the last good checkpoint is ${good}` : "no checkpoint was written yet"}; lower train.learning_rate or raise train.warmup_steps` +
        `${scaling ? ", or set train.compute_dtype to f32" : ""}`,
      { code: "loss_not_finite" },
    );
  }
  run.log.step(at.step, {
    loss: mean,
    grad_norm: norm,
    learning_rate: at.learningRate,
    tokens: at.tokens,
    ...(scaling && { loss_scale: scaling.loss_scale, skipped: scaling.skipped }),
  });
  return mean;
}

/** Mean loss and bits per byte over the first validation batches, the same ones every time. */
async function validate(run: Run, step: number): Promise<void> {
  const { config, trainer, shard, validation } = run;
  if (validation.length === 0) return;
  const { batch_size: batchSize, sequence_length: seqLen } = config.train;
  let nats = 0;
  let supervised = 0;
  let bytes = 0;
  for (const batch of validationBatches(shard, validation, {
    batchSize,
    seqLen,
    maxBatches: config.eval.batches,
  })) {
    const sum: Tensor = trainer.evaluate(batch);
    nats += await sum.item();
    dispose(sum);
    supervised += batch.supervised;
    bytes += batch.bytes;
  }
  const loss = nats / supervised;
  if (run.bestValidationLoss === null || loss < run.bestValidationLoss) run.bestValidationLoss = loss;
  run.log.validation(step, { validation_loss: loss, bits_per_byte: nats / Math.LN2 / bytes });
}

async function sampleAll(run: Run, step: number): Promise<string[]> {
  const { prompts, max_tokens, temperature } = run.config.sample;
  const texts: string[] = [];
  for (const prompt of prompts) {
    texts.push(
      prompt + (await run.sampler(prompt, { max_tokens, temperature, seed: run.config.train.seed + step })),
    );
  }
  return texts;
}

async function save(run: Run, step: number): Promise<string> {
  const state: TrainerState = {
    format: "kiln-trainer",
    version: 1,
    step,
    data: run.batches.state(),
    tokens_seen: run.tokensSeen,
    best_validation_loss: run.bestValidationLoss,
    settings_hash: run.settingsHash,
  };
  run.log.flush();
  return saveCheckpoint(run.config.out_dir, run.state, state, run.config.checkpoint.keep);
}

function interrupted(run: Run, step: number): KilnError {
  return new KilnError(
    `stopped at step ${step} of ${run.totalSteps}; the checkpoint is saved: add --resume to go on`,
    { code: "interrupted", exitCode: 130 },
  );
}

async function finish(run: Run, before: string[], trainLoss: number): Promise<PretrainResult> {
  const { config, state, log, totalSteps } = run;
  const after = await sampleAll(run, totalSteps);
  log.samples(totalSteps, after);
  const modelDir = join(config.out_dir, "model");
  await saveModel(modelDir, state.model, state.tokenizer);
  const lossCurve = join(config.out_dir, "loss.svg");
  await atomicWriteFile(lossCurve, log.picture(`${config.out_dir}: loss`));
  const last = log.lastValidation;
  return {
    modelDir,
    lossCurve,
    steps: totalSteps,
    trainLoss,
    validationLoss: last?.validation_loss ?? null,
    bitsPerByte: last?.bits_per_byte ?? null,
    samples: { before, after },
    model: state.model,
    tokenizer: state.tokenizer,
  };
}
