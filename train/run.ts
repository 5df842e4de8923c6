import { join } from "node:path";
import { dispose } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { saveModel } from "../models/checkpoint.ts";
import { atomicWriteFile } from "../models/files.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import type { PackedBatches } from "./data/index.ts";
import type { Validation } from "./evaluate.ts";
import { readLossScaler } from "./loss_scaler.ts";
import type { TrainingData } from "./prepare_data.ts";
import {
  loadCheckpoint,
  newestCheckpoint,
  type RunState,
  saveCheckpoint,
  type TrainerState,
} from "./run_files.ts";
import { RunLog } from "./run_log.ts";
import { type ScheduleConfig, scheduleFactor } from "./schedules.ts";
import type { StepResult, Trainer } from "./trainer.ts";

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
  /** Mean nats per token over all held-out text, or null without any. */
  validationLoss: number | null;
  bitsPerByte: number | null;
  /** Tokens that `validationLoss` is the mean of. */
  validationTokens: number | null;
  /** Samples before and after training, prompt first. */
  samples: { before: string[]; after: string[] };
  model: CausalLM;
  tokenizer: Tokenizer;
}

/** What the loop works with. */
export interface Run {
  options: PretrainOptions;
  config: PretrainConfig;
  state: RunState;
  trainer: Trainer;
  data: TrainingData;
  validation: Validation;
  batches: PackedBatches;
  totalSteps: number;
  schedule: ScheduleConfig;
  settingsHash: string;
  sampler: Sampler;
  log: RunLog;
  tokensSeen: number;
  bestValidationLoss: number | null;
}

/** Trains from where the run folder stands to the last step, and leaves everything a run leaves. */
export async function runToEnd(run: Run, resumeFrom: string | null): Promise<PretrainResult> {
  const { config, say } = run.options;
  let step = 0;
  if (resumeFrom) {
    step = await restore(run, resumeFrom);
    say(`resuming ${config.out_dir} at step ${step} of ${run.totalSteps}`);
  }
  run.log = new RunLog(config.out_dir, { totalSteps: run.totalSteps, startStep: step });
  try {
    const before = step === 0 ? await sampleAll(run, 0) : [];
    const trainLoss = await loop(run, step);
    return await finish(run, before, trainLoss);
  } finally {
    run.log.close();
  }
}

async function restore(run: Run, path: string): Promise<number> {
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

/** Measures the validation loss within the budget. */
async function validate(run: Run, step: number): Promise<void> {
  const found = await run.validation.sample(run.trainer);
  if (!found) return;
  const best = run.bestValidationLoss;
  if (best === null || found.validation_loss < best) run.bestValidationLoss = found.validation_loss;
  run.log.validation(step, found);
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
  if (!run.validation.samplesAll) {
    const whole = await run.validation.all(run.trainer);
    if (whole) log.validation(totalSteps, whole);
  }
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
    validationTokens: last?.validation_tokens ?? null,
    samples: { before, after },
    model: state.model,
    tokenizer: state.tokenizer,
  };
}
