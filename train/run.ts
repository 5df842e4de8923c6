import { join } from "node:path";
import { dispose } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { atomicWriteFile, writeJson } from "../core/platform/files.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { saveModel } from "../models/formats/hf_directory.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import type { PackedBatches } from "./data/index.ts";
import type { TrainingData } from "./data/text_data.ts";
import type { Validation } from "./evaluate.ts";
import { readLossScaler } from "./optimizers/loss_scaler.ts";
import { type ScheduleConfig, scheduleFactor } from "./optimizers/schedules.ts";
import { RunLog } from "./report/run_log.ts";
import { changesSince, trainCommand } from "./resume.ts";
import {
  keepsBest,
  listCheckpoints,
  loadCheckpoint,
  type RunState,
  readTrainerState,
  saveBest,
  saveCheckpoint,
  setAsideNewer,
  stepOf,
  type TrainerState,
} from "./run_files.ts";
import type { StepResult, Trainer } from "./trainer.ts";

/** Continues a prompt with the model in training; made by the caller, since generation is the server's. */
export type Sampler = (
  prompt: string,
  options: { max_tokens: number; temperature: number; seed: number },
) => Promise<string>;

/** Told once the model exists; returns how to sample from it. */
export type MakeSampler = (model: CausalLM, tokenizer: Tokenizer) => Sampler;

export interface PretrainOptions {
  config: PretrainConfig;
  makeSampler: MakeSampler;
  /** Lines for the person who watches. */
  say: (line: string) => void;
  /** Stops after the running step: checkpoint, then a KilnError with exit code 130. */
  signal?: AbortSignal;
}

export interface PretrainResult {
  modelDir: string;
  lossCurve: string;
  steps: number;
  /** Mean nats per token of the last update, or null where a finished run's log has none. */
  trainLoss: number | null;
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
  state: RunState & { model: CausalLM };
  trainer: Trainer;
  data: TrainingData;
  validation: Validation;
  batches: PackedBatches;
  totalSteps: number;
  schedule: ScheduleConfig;
  settings: Record<string, unknown>;
  sampler: Sampler;
  log: RunLog;
  tokensSeen: number;
  best: TrainerState["best"];
}

/** Trains from where the run folder stands to the last step, and leaves everything a run leaves. */
export async function runToEnd(run: Run, resumeFrom: string | null): Promise<PretrainResult> {
  const { options, config, totalSteps } = run;
  const step = resumeFrom ? await restore(run, resumeFrom) : 0;
  await writeJson(join(config.out_dir, "config.json"), { ...config, resume: false });
  run.log = new RunLog(config.out_dir, { totalSteps, startStep: step });
  try {
    if (step === totalSteps) {
      options.say(
        `${config.out_dir} is already finished: ${step} of ${totalSteps} updates; to train on, give more --steps`,
      );
    }
    const before = step === 0 ? await sampleAll(run, 0) : [];
    const trainLoss = await loop(run, step);
    return await finish(run, before, trainLoss);
  } finally {
    run.log.close();
  }
}

/** Puts a checkpoint back and says what is different from now on; returns the updates done. */
async function restore(run: Run, path: string): Promise<number> {
  const { say } = run.options;
  const { totalSteps, settings } = run;
  const saved = await readTrainerState(path);
  const { step } = saved;
  const changes = changesSince(saved.settings, settings, path);
  if (totalSteps < step) {
    throw new KilnError(`${path} has ${step} updates already: --steps ${totalSteps} is fewer`, {
      code: "settings_differ",
    });
  }
  await loadCheckpoint(path, run.state);
  for (const aside of await setAsideNewer(path)) say(`set aside, delete it when you like: ${aside}`);
  run.batches.restore(saved.data);
  run.trainer.optimizer.steps = step;
  run.tokensSeen = saved.tokens_seen;
  run.best = saved.best;
  if (run.config.checkpoint.keep_best && saved.best && !(await keepsBest(run.config.out_dir, saved.best))) {
    const { step: at, validation_loss } = saved.best;
    say(
      `the model of the lowest validation loss so far, ${validation_loss.toFixed(4)} at step ${at}, was not kept: best/ begins anew`,
    );
    run.best = null;
  }
  if (step < totalSteps) say(`resuming ${run.config.out_dir} at step ${step} of ${totalSteps}`);
  if (changes.length > 0) say(`changed from here on: ${changes.join(", ")}`);
  return step;
}

/**
 * All updates from `start` on; the loss of an update is read while the next one runs. Returns the last one's, from the
 * log where there was nothing left to do.
 */
async function loop(run: Run, start: number): Promise<number | null> {
  const { config, trainer, batches, totalSteps, log } = run;
  const { train, eval: evaluation, sample, checkpoint } = config;
  let pending: Promise<number> | null = null;
  let loss = log.lastLoss;
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
  if (supervised === 0) {
    throw new KilnError(
      `step ${at.step}: no token of the batch has a next one to learn; give documents of more than one token`,
    );
  }
  const mean = loss / supervised;
  const lost = scaling ? scaling.loss_scale < smallestLossScale : !Number.isFinite(norm);
  if (!Number.isFinite(mean) || lost) {
    // The weights that gave these are those after the update before.
    throw await diverged(run, at.step, `the loss is ${mean} and the gradient norm ${norm}`, at.step - 2);
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

/**
 * The end of a run whose numbers are of no use any more, with the command that goes on from what is good: the newest
 * checkpoint of at most `trusted` updates. A later one gave the bad numbers itself.
 */
async function diverged(run: Run, step: number, what: string, trusted: number): Promise<KilnError> {
  const { out_dir, train } = run.config;
  const names = await listCheckpoints(out_dir);
  const good = names.findLast((name) => stepOf(name) <= trusted);
  const lower = ["--learning-rate", String(Number(Math.min(train.learning_rate / 10, 1e-3).toPrecision(3)))];
  const elsewhere = names.length > 0 ? ["--out", `${out_dir}-again`] : [];
  const advice = good
    ? `the last good checkpoint is ${good}: go on from it at a lower rate with ${trainCommand("--out", out_dir, "--resume-from", good, ...lower)}`
    : `there is no good checkpoint yet: start again at a lower rate with ${trainCommand(join(out_dir, "config.json"), ...elsewhere, ...lower)}`;
  const f32 = train.compute_dtype === "f16" ? ", or add --compute-dtype f32" : "";
  return new KilnError(`step ${step}: ${what}; ${advice}${f32}`, { code: "loss_not_finite" });
}

/** Measures the validation loss within the budget and keeps the best model where that is asked for. */
async function validate(run: Run, step: number): Promise<void> {
  const found = await run.validation.sample(run.trainer);
  if (!found) return;
  const { validation_loss } = found;
  if (!Number.isFinite(validation_loss))
    throw await diverged(run, step, `the validation loss is ${validation_loss}`, step - 1);
  run.log.validation(step, found);
  if (run.best && run.best.validation_loss <= validation_loss) return;
  run.best = { step, validation_loss };
  if (!run.config.checkpoint.keep_best) return;
  await savingGood(run, step, () => saveBest(run.config.out_dir, run.state, { step, ...found }));
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

async function save(run: Run, step: number): Promise<void> {
  const { config } = run;
  run.log.flush();
  const state: TrainerState = {
    format: "kiln-trainer",
    version: 2,
    step,
    data: run.batches.state(),
    tokens_seen: run.tokensSeen,
    best: run.best,
    settings: run.settings,
  };
  await savingGood(run, step, () => saveCheckpoint(config.out_dir, run.state, state, config.checkpoint.keep));
}

/** Saves the weights of an update; where they are not finite, the error says how to go on. */
async function savingGood(run: Run, step: number, saved: () => Promise<unknown>): Promise<void> {
  try {
    await saved();
  } catch (error) {
    if ((error as KilnError).code !== "values_not_finite") throw error;
    throw await diverged(run, step, (error as Error).message, step - 1);
  }
}

function interrupted(run: Run, step: number): KilnError {
  return new KilnError(
    `stopped at step ${step} of ${run.totalSteps}; the checkpoint is saved: add --resume to go on`,
    { code: "interrupted", exitCode: 130 },
  );
}

async function finish(run: Run, before: string[], trainLoss: number | null): Promise<PretrainResult> {
  const { config, state, log, totalSteps } = run;
  if (!run.validation.samplesAll) {
    run.options.say(
      `measuring the loss on all ${run.validation.tokens.toLocaleString("en")} held-out tokens`,
    );
    const whole = await run.validation.all(run.trainer, run.options.signal);
    if (run.options.signal?.aborted) throw interrupted(run, totalSteps);
    // A run that was finished before has it in its log.
    if (whole && whole.validation_tokens !== log.lastValidation?.validation_tokens) {
      log.validation(totalSteps, whole);
    }
  }
  const after = await sampleAll(run, totalSteps);
  log.samples(totalSteps, after);
  const modelDir = join(config.out_dir, "model");
  await saveModel(modelDir, state.model, state.tokenizer);
  const lossCurve = join(config.out_dir, "loss.svg");
  await atomicWriteFile(lossCurve, log.picture(`${config.out_dir}: loss`));
  if (config.checkpoint.keep_best && run.best) {
    const { step, validation_loss } = run.best;
    run.options.say(
      `best validation loss ${validation_loss.toFixed(4)}, at step ${step}: ${join(config.out_dir, "best")}`,
    );
  }
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
