import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { device } from "../../core/device.ts";
import { atomicWriteText, textIfPresent } from "../../core/platform/files.ts";
import type { Metrics } from "../recipe.ts";
import { lossCurveSvg } from "./loss_curve.ts";
import { MetricsLog, type MetricsRecord, readMetrics } from "./metrics_log.ts";
import { Progress } from "./progress.ts";
import { EventWriter } from "./tensorboard.ts";

/** Numbers of one update. */
export interface StepMetrics {
  /** Mean loss per supervised place; of a language model in nats per token. */
  loss: number;
  grad_norm: number;
  learning_rate: number;
  /** Tokens seen since the start of the run. */
  tokens: number;
  /** In mixed precision: the factor of the next update's loss, and how many updates overflowed since the start. */
  loss_scale?: number;
  skipped?: number;
}

/**
 * Everything a run writes about itself on the way: `log.jsonl`, TensorBoard events, `samples.txt`, the progress line and, at
 * the end, the loss curve.
 */
export class RunLog {
  /** The last measurement, even if it was made before this run was resumed. */
  lastValidation: Metrics | null = null;
  /** What test data gave, under names that begin with `test_`. */
  lastTest: Metrics | null = null;
  /** The loss of the last update, even if that was made before this run was resumed. */
  lastLoss: number | null = null;
  readonly #folder: string;
  readonly #metrics: MetricsLog;
  readonly #events: EventWriter;
  readonly #progress: Progress;
  #clock = performance.now();
  #tokens = 0;
  #tokensPerSecond = Number.NaN;

  constructor(folder: string, options: { totalSteps: number; startStep: number }) {
    const { totalSteps, startStep } = options;
    this.#folder = folder;
    this.#metrics = new MetricsLog(join(folder, "log.jsonl"), { keepThrough: startStep });
    this.#events = new EventWriter(folder);
    // Standard error may be piped through a filter while a person still watches standard output.
    const stream = !process.stderr.isTTY && process.stdout.isTTY ? process.stdout : process.stderr;
    this.#progress = new Progress({ total: totalSteps, stream });
    // Drops the samples that a resumed run writes again, as the metrics log does, and those of a start that came to nothing.
    dropSamples(
      join(folder, "samples.txt"),
      (step) => startStep === 0 || step > startStep || step === totalSteps,
    );
    for (const record of readMetrics(join(folder, "log.jsonl"))) this.#remember(record);
  }

  update(step: number, metrics: StepMetrics): void {
    const now = performance.now();
    const seconds = (now - this.#clock) / 1000;
    // A moving average, since single steps differ; the first step compiles and is left out.
    if (this.#tokens > 0 && seconds > 0) {
      const rate = (metrics.tokens - this.#tokens) / seconds;
      const known = Number.isNaN(this.#tokensPerSecond) ? rate : this.#tokensPerSecond;
      this.#tokensPerSecond = known + 0.1 * (rate - known);
    }
    this.#clock = now;
    this.#tokens = metrics.tokens;
    this.lastLoss = metrics.loss;
    this.#metrics.write({ step, ...metrics });
    this.#events.scalars(step, { ...metrics });
    const { validation_loss } = this.lastValidation ?? {};
    this.#progress.update({
      step,
      loss: metrics.loss,
      tokensPerSecond: this.#tokensPerSecond,
      memoryBytes: device().bytesInUse,
      ...(validation_loss != null && { validationLoss: validation_loss }),
    });
  }

  validation(step: number, metrics: Metrics): void {
    this.lastValidation = metrics;
    this.#measurement(step, metrics);
  }

  test(step: number, metrics: Metrics): void {
    const named = Object.entries(metrics).map(([name, value]) => [
      name.replace(/^(validation_)?/, "test_"),
      value,
    ]);
    const found = Object.fromEntries(named) as Metrics;
    // A run that was finished before has it in its log.
    if (isDeepStrictEqual(found, this.lastTest)) return;
    this.lastTest = found;
    this.#measurement(step, found);
  }

  #measurement(step: number, metrics: Metrics): void {
    this.#metrics.write({ step, ...metrics });
    const numbers = Object.entries(metrics).filter((entry): entry is [string, number] => entry[1] !== null);
    this.#events.scalars(step, Object.fromEntries(numbers));
    // Measuring is not training: the next step's rate is counted from here.
    this.#clock = performance.now();
  }

  /** Keeps the samples of a step in `samples.txt` and shows the beginning of the first, where something was learned before it. */
  samples(step: number, texts: readonly string[]): void {
    for (const text of texts)
      appendFileSync(join(this.#folder, "samples.txt"), `=== step ${step} ===\n${text}\n\n`);
    if (texts[0] && step > 0)
      this.#progress.note(`  step ${step}: ${texts[0].replaceAll(/\s+/g, " ").slice(0, 140)}…`);
    this.#clock = performance.now();
  }

  /** The loss curve of the whole run, earlier parts of a resumed one included, as SVG. */
  picture(title: string): string {
    const records = readMetrics(join(this.#folder, "log.jsonl"));
    const points = (name: string) =>
      records.flatMap((r) =>
        typeof r[name] === "number" ? [{ step: r.step, loss: r[name] as number }] : [],
      );
    return lossCurveSvg({ title, train: points("loss"), validation: points("validation_loss") });
  }

  /** Flushes to the disk what was written. */
  flush(): void {
    this.#metrics.flush();
    this.#events.flush();
  }

  close(): void {
    this.#progress.end();
    this.#metrics.close();
    this.#events.close();
  }

  /** A record without a training loss is a measurement. */
  #remember({ step: _step, loss, ...others }: MetricsRecord): void {
    if (typeof loss === "number") this.lastLoss = loss;
    if (loss !== undefined) return;
    if (Object.keys(others).some((name) => name.startsWith("test_"))) this.lastTest = others as Metrics;
    else this.lastValidation = others as Metrics;
  }
}

function dropSamples(path: string, isAgain: (step: number) => boolean): void {
  const old = textIfPresent(path)?.split(/^(?==== step \d+ ===$)/m);
  if (old) atomicWriteText(path, old.filter((text) => !isAgain(Number(/\d+/.exec(text)?.[0]))).join(""));
}

/** The losses at the end of a run in one line, with `digits` decimals. */
export function lossText(
  { trainLoss, metrics, test }: { trainLoss: number | null; metrics: Metrics | null; test?: Metrics | null },
  digits: number,
): string {
  const training = `training loss ${trainLoss === null ? "unknown" : trainLoss.toFixed(digits)}`;
  const { validation_loss = null, bits_per_byte = null, validation_tokens = null, ...others } = metrics ?? {};
  const named = Object.entries({ ...others, ...test }).map(
    ([name, value]) => `, ${name.replaceAll("_", " ")} ${value === null ? "unknown" : value.toFixed(digits)}`,
  );
  if (validation_loss === null) return training + named.join("");
  const bits = bits_per_byte === null ? "" : ` (${bits_per_byte.toFixed(digits)} bits per byte)`;
  const tokens =
    validation_tokens === null ? "" : ` on ${validation_tokens.toLocaleString("en")} predicted tokens`;
  return `${training}, validation loss ${validation_loss.toFixed(digits)}${bits}${tokens}${named.join("")}`;
}
