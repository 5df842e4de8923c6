import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../core/errors.ts";
import { atomicWriteDirectory, atomicWriteFile, writeJson } from "../core/platform/files.ts";
import type { Supervisor } from "../core/platform/supervisor.ts";
import { dispose } from "../core/scope.ts";
import { assertComputeDtype } from "../models/architectures.ts";
import type { Model } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { createOptimizer } from "./optimizers/index.ts";
import { readLossScaler } from "./optimizers/loss_scaler.ts";
import { type ScheduleConfig, scheduleFactor } from "./optimizers/schedules.ts";
import type { Evaluation, Evaluator, HostBatch, MakeSampler, Metrics, Recipe, Task } from "./recipe.ts";
import { RunLog } from "./report/run_log.ts";
import { changesSince, decisiveSettings, resumePoint, trainCommand } from "./resume.ts";
import {
  type Best,
  keepsBest,
  listCheckpoints,
  loadBest,
  loadCheckpoint,
  readTrainerState,
  saveBest,
  saveCheckpoint,
  setAsideNewer,
  stepOf,
  writeTrained,
} from "./run_files.ts";
import { lockRun } from "./run_lock.ts";
import type { RunSettings } from "./settings/run.ts";
import { type StepResult, Trainer } from "./trainer.ts";

export interface RunOptions<C> {
  config: C;
  makeSampler: MakeSampler;
  /** Prints a line for the person who watches. */
  say: (line: string) => void;
  /** Stops after the running step: checkpoint, then a KilnError with exit code 130. */
  signal?: AbortSignal;
  /** The process that has this one train, if one does. */
  supervisor?: Supervisor | null;
}

export interface RunResult {
  modelDir: string;
  lossCurve: string;
  steps: number;
  /** Mean loss of the last update, or null where a finished run's log has none. */
  trainLoss: number | null;
  /** The last measurement, on all held-out data; null without any. */
  metrics: Metrics | null;
  /** What was measured on test data, where the recipe has any. */
  test: Metrics | null;
  /** Samples before and after training, prompt first. */
  samples: { before: string[]; after: string[] };
  model: Model<never>;
  tokenizer: Tokenizer;
}

/** The settings that the loop reads. */
type LoopSettings = RunSettings & { sample?: { every: number } };

/** Trains by a recipe in a run folder of its own, which no other process may write meanwhile. */
export async function run<C extends LoopSettings, B extends HostBatch, I extends object>(
  recipe: Recipe<C, B, I>,
  options: RunOptions<C>,
): Promise<RunResult> {
  recipe.check?.(options.config);
  const release = lockRun(options.config.out_dir);
  try {
    const config = (await recipe.fit?.(options.config)) ?? options.config;
    const resumeFrom = await resumePoint(recipe.name, config);
    assertComputeDtype(config.train.compute_dtype, "set train.compute_dtype to f32");
    const task = await recipe.open(config, { ...options, resumeFrom });
    try {
      return await new Run(recipe.name, task, { ...options, config }).toEnd(resumeFrom);
    } finally {
      task.close();
    }
  } finally {
    release();
  }
}

/** What trains a task as the settings say. */
export function trainerOf<B extends HostBatch, I extends object>(
  { model, objective }: Task<B, I>,
  train: RunSettings["train"],
): Trainer<B, I> {
  const options = {
    maxGradNorm: train.max_grad_norm,
    sequenceLength: train.sequence_length,
    dropoutSeed: train.seed,
    lossScale: train.loss_scale,
    averageDecay: train.ema_decay,
  };
  model.recompute = train.gradient_checkpointing;
  return new Trainer(model, createOptimizer(model.trainedParameters(), train.optimizer), options, objective);
}

/** The learning rate over a run, and with it the number of its updates. */
export function scheduleOf(train: RunSettings["train"], rowsPerEpoch: number): ScheduleConfig {
  const { schedule: name, min_lr_ratio, epochs, steps = 1000 } = train;
  const rowsPerStep = train.batch_size * train.gradient_accumulation_steps;
  const total_steps = epochs ? Math.max(1, Math.ceil((epochs * rowsPerEpoch) / rowsPerStep)) : steps;
  const { warmup_steps = Math.min(100, Math.floor(total_steps / 10)) } = train;
  return { name, warmup_steps, min_lr_ratio, total_steps };
}

/** Gradients that overflow f16 even with this scale are not a matter of scale. */
const smallestLossScale = 2 ** -24;

/** The loop: updates, measurements, samples and checkpoints, from any step to the last. */
class Run<C extends LoopSettings, B extends HostBatch, I extends object> {
  readonly #recipe: string;
  readonly #task: Task<B, I>;
  readonly #config: C;
  readonly #options: RunOptions<C>;
  readonly #trainer: Trainer<B, I>;
  readonly #totalSteps: number;
  readonly #schedule: ScheduleConfig;
  readonly #settings: Record<string, unknown>;
  /** Updates done. */
  #done = 0;
  #tokensSeen = 0;
  #best: Best | null = null;

  constructor(recipe: string, task: Task<B, I>, options: RunOptions<C>) {
    const { config } = options;
    this.#recipe = recipe;
    this.#task = task;
    this.#options = options;
    this.#schedule = scheduleOf(config.train, task.batches.rowsPerEpoch);
    this.#totalSteps = this.#schedule.total_steps;
    // A run that is resumed for more steps keeps its warm-up.
    const train = { ...config.train, warmup_steps: this.#schedule.warmup_steps };
    this.#config = { ...config, train };
    this.#trainer = trainerOf(task, train);
    this.#settings = decisiveSettings(train, this.#totalSteps, task.decisive);
  }

  /** Trains from the state of the run folder to the last step, and leaves everything a run leaves. */
  async toEnd(resumeFrom: string | null): Promise<RunResult> {
    const { out_dir } = this.#config;
    const start = resumeFrom ? await this.#restore(resumeFrom) : 0;
    await writeJson(join(out_dir, "config.json"), { ...this.#config, resume: false });
    const total = this.#totalSteps;
    const log = new RunLog(out_dir, { totalSteps: total, startStep: start });
    this.#options.supervisor?.begin(total, start);
    try {
      if (start === total) {
        this.#options.say(
          `${out_dir} is already finished: ${start} of ${total} updates; to train on, give more --steps`,
        );
      }
      const before = start === 0 ? await this.#sample(0) : [];
      log.samples(0, before);
      const trainLoss = await this.#train(start, log);
      return await this.#finish(log, before, trainLoss);
    } finally {
      log.close();
    }
  }

  /** Puts a checkpoint back and says what is different from now on; returns the updates done. */
  async #restore(path: string): Promise<number> {
    const { say } = this.#options;
    const { out_dir } = this.#config;
    const total = this.#totalSteps;
    const saved = await readTrainerState(path);
    const { step, best } = saved;
    const changes = changesSince(saved.settings, this.#settings, path);
    if (total < step) {
      throw new KilnError(`${path} has ${step} updates already: --steps ${total} is fewer`, {
        code: "settings_differ",
      });
    }
    await loadCheckpoint(path, this.#task.model, this.#trainer, step);
    for (const aside of await setAsideNewer(path)) say(`set aside, delete it when you like: ${aside}`);
    this.#task.batches.restore(saved.data);
    this.#done = step;
    this.#tokensSeen = saved.tokens_seen;
    this.#best = best;
    if (this.#keepsBest && best && !(await keepsBest(out_dir, best))) {
      const { criterion } = this.#task.evaluation;
      say(
        `the model of the ${bestOf(criterion)} so far, ${best[criterion].toFixed(4)} at step ${best.step}, was not kept: best/ starts over`,
      );
      this.#best = null;
    }
    if (step < total) say(`resuming ${out_dir} at step ${step} of ${total}`);
    if (changes.length > 0) say(`changed from here on: ${changes.join(", ")}`);
    return step;
  }

  /**
   * All updates after `start`; the numbers of an update are read while the next one runs. Returns the last loss, from
   * the log where there was nothing left to do.
   */
  async #train(start: number, log: RunLog): Promise<number | null> {
    const { train, eval: evaluation, sample, checkpoint } = this.#config;
    const total = this.#totalSteps;
    let pending: Promise<number> | null = null;
    let loss = log.lastLoss;
    for (let step = start + 1; step <= total && !this.#isStale(step - 1); step++) {
      await this.#options.supervisor?.turn();
      this.#done = step;
      const { batches } = this.#task;
      const micro = Array.from({ length: train.gradient_accumulation_steps }, () => batches.next());
      const learningRate = train.learning_rate * scheduleFactor(this.#schedule, step - 1);
      if (step === start + 1) await this.#trainer.prepare(micro);
      const result = this.#trainer.step(micro, learningRate);
      this.#tokensSeen += micro.reduce((sum, batch) => sum + batch.tokens.length, 0);
      if (pending) loss = await pending;
      pending = this.#record(log, { step, learningRate, tokens: this.#tokensSeen }, result);
      const due = (every: number) => step === total || (every > 0 && step % every === 0);
      const stopping = this.#options.signal?.aborted ?? false;
      const sampling = sample !== undefined && due(sample.every);
      if (!due(evaluation.every) && !sampling && !due(checkpoint.every) && !stopping) continue;
      // What follows reads the weights: this update must be known to be good first.
      loss = await pending;
      pending = null;
      if (due(evaluation.every)) await this.#evaluate(log, step);
      if (sampling && step < total) {
        const texts = await this.#trainer.averaged(() => this.#sample(step));
        log.samples(step, texts);
      }
      if (due(checkpoint.every) || stopping || this.#isStale(step)) await this.#save(log, step);
      if (stopping) throw this.#interrupted(step);
    }
    if (pending) loss = await pending;
    if (this.#done < total)
      this.#options.say(
        `ended at step ${this.#done}: ${this.#config.eval.patience} measurements without a better one`,
      );
    return loss;
  }

  /** Whether `eval.patience` measurements up to `step` have brought nothing better. */
  #isStale(step: number): boolean {
    const { patience, every } = this.#config.eval;
    return patience > 0 && this.#best !== null && step - this.#best.step >= patience * every;
  }

  /**
   * Reads and logs an update's numbers; a loss or norm that is not finite ends the run. In mixed precision the norm may be:
   * that update was skipped, unless no scale is left to try.
   */
  async #record(
    log: RunLog,
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
      throw await this.#diverged(at.step, `the loss is ${mean} and the gradient norm ${norm}`, at.step - 2);
    }
    log.update(at.step, {
      loss: mean,
      grad_norm: norm,
      learning_rate: at.learningRate,
      tokens: at.tokens,
      ...(scaling && { loss_scale: scaling.loss_scale, skipped: scaling.skipped }),
    });
    return mean;
  }

  /**
   * The error of a run whose numbers are no longer of use, with the command that goes on from the newest good checkpoint:
   * one of at most `trusted` updates, since a later one gave the bad numbers itself.
   */
  async #diverged(step: number, what: string, trusted: number): Promise<KilnError> {
    const { out_dir, train } = this.#config;
    const command = (...args: string[]) => trainCommand(this.#recipe, ...args);
    const names = await listCheckpoints(out_dir);
    const good = names.findLast((name) => stepOf(name) <= trusted);
    const rate = Math.min(train.learning_rate / 10, 1e-3).toPrecision(3);
    const lower = ["--learning-rate", String(Number(rate))];
    const elsewhere = names.length > 0 ? ["--out", `${out_dir}-again`] : [];
    const advice = good
      ? `the last good checkpoint is ${good}: go on from it at a lower rate with ${command("--out", out_dir, "--resume-from", good, ...lower)}`
      : `there is no good checkpoint yet: start again at a lower rate with ${command(join(out_dir, "config.json"), ...elsewhere, ...lower)}`;
    const f32 = train.compute_dtype === "f16" ? ", or add --compute-dtype f32" : "";
    return new KilnError(`step ${step}: ${what}; ${advice}${f32}`, { code: "loss_not_finite" });
  }

  /** Measures within the budget, and keeps the best model where that is asked for. */
  async #evaluate(log: RunLog, step: number): Promise<void> {
    const { evaluation, model, tokenizer } = this.#task;
    const metrics = await this.#trainer.averaged(() => evaluation.sample(this.#evaluator));
    if (!metrics) return;
    const { criterion } = evaluation;
    const value = metrics[criterion]!;
    if (!Number.isFinite(value))
      throw await this.#diverged(step, `the ${inWords(criterion)} is ${value}`, step - 1);
    log.validation(step, metrics);
    const { min_delta } = this.#config.eval;
    if (this.#best && !isBetter(criterion, value, this.#best[criterion], min_delta)) return;
    this.#best = { step, [criterion]: value };
    if (!this.#keepsBest) return;
    const { out_dir } = this.#config;
    const best = () => saveBest(out_dir, model, tokenizer, { step, ...metrics });
    await this.#saved(step, () => this.#trainer.averaged(best));
  }

  /** A run that may end early needs the best model, to end with it. */
  get #keepsBest(): boolean {
    return this.#config.checkpoint.keep_best || this.#config.eval.patience > 0;
  }

  get #evaluator(): Evaluator<B> {
    return {
      evaluate: (batch) => this.#trainer.evaluate(batch),
      turn: async () => this.#options.supervisor?.turn(),
    };
  }

  async #sample(step: number): Promise<string[]> {
    return (await this.#task.sample?.(this.#config.train.seed + step)) ?? [];
  }

  async #save(log: RunLog, step: number): Promise<void> {
    const { out_dir, checkpoint } = this.#config;
    const { model, tokenizer, batches } = this.#task;
    log.flush();
    const state = {
      format: "kiln-trainer" as const,
      version: 2 as const,
      step,
      data: batches.state(),
      tokens_seen: this.#tokensSeen,
      best: this.#best,
      settings: this.#settings,
    };
    const parts = { model, tokenizer, tensors: this.#trainer.state() };
    await this.#saved(step, () => saveCheckpoint(out_dir, parts, state, checkpoint.keep));
  }

  /** Waits for the weights of an update to be saved; where they are not finite, the error says how to go on. */
  async #saved(step: number, save: () => Promise<unknown>): Promise<void> {
    try {
      await save();
    } catch (error) {
      if ((error as KilnError).code !== "values_not_finite") throw error;
      throw await this.#diverged(step, (error as Error).message, step - 1);
    }
  }

  #interrupted(step: number): KilnError {
    return new KilnError(
      `stopped at step ${step} of ${this.#totalSteps}; the checkpoint is saved: add --resume to go on`,
      { code: "interrupted", exitCode: 130 },
    );
  }

  /** Ends the run with the averaged weights where there are any, or with the best model where it may end early. */
  async #finish(log: RunLog, before: string[], trainLoss: number | null): Promise<RunResult> {
    const { out_dir, eval: settings } = this.#config;
    const best = this.#keepsBest ? this.#best : null;
    if (best) {
      const { criterion } = this.#task.evaluation;
      const { step, [criterion]: value } = best;
      this.#options.say(
        `best ${inWords(criterion)} ${value.toFixed(4)}, at step ${step}: ${join(out_dir, "best")}`,
      );
    }
    const restored = best !== null && settings.patience > 0 && best.step < this.#done;
    if (restored) await loadBest(out_dir, this.#task.model);
    const conclude = () => this.#conclude(log, restored);
    const after = await (restored ? conclude() : this.#trainer.averaged(conclude));
    const modelDir = join(out_dir, "model");
    const lossCurve = join(out_dir, "loss.svg");
    await atomicWriteFile(lossCurve, log.picture(`${out_dir}: loss`));
    const { model, tokenizer } = this.#task;
    const samples = { before, after };
    const { lastValidation: metrics, lastTest: test } = log;
    return { modelDir, lossCurve, steps: this.#done, trainLoss, metrics, test, samples, model, tokenizer };
  }

  /** Measures the model as it is on everything, saves it, and returns what it writes. */
  async #conclude(log: RunLog, isOther: boolean): Promise<string[]> {
    const { evaluation, test, model, tokenizer } = this.#task;
    if (!evaluation.samplesAll || isOther) {
      const whole = await this.#measureAll(evaluation);
      // A run that was finished before has it in its log.
      if (whole && !isDeepStrictEqual(whole, log.lastValidation)) log.validation(this.#done, whole);
    }
    const tested = test && (await this.#measureAll(test));
    if (tested) log.test(this.#done, tested);
    else if (isOther)
      this.#options.say("this step was chosen on the data that it is measured on: the numbers flatter it");
    const texts = await this.#sample(this.#done);
    log.samples(this.#done, texts);
    const { out_dir } = this.#config;
    await this.#task.conclude?.(out_dir);
    const folder = join(out_dir, "model");
    await atomicWriteDirectory(folder, (temporary) => writeTrained(temporary, model, tokenizer));
    return texts;
  }

  async #measureAll(evaluation: Evaluation<B>): Promise<Metrics | null> {
    const { signal, say } = this.#options;
    say(`measuring on all ${evaluation.size}`);
    const whole = await evaluation.all(this.#evaluator, signal);
    if (signal?.aborted) throw this.#interrupted(this.#done);
    return whole;
  }
}

const isLoss = (criterion: string) => criterion.endsWith("_loss");

/** Whether a measurement is better than another by more than `margin`: lower for a loss, else higher. */
export function isBetter(criterion: string, value: number, before: number, margin: number): boolean {
  return isLoss(criterion) ? value < before - margin : value > before + margin;
}

function inWords(criterion: string): string {
  return criterion.replaceAll("_", " ");
}

function bestOf(criterion: string): string {
  return `${isLoss(criterion) ? "lowest" : "highest"} ${inWords(criterion)}`;
}
