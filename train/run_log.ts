import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { device } from "../core/device.ts";
import { EventWriter, MetricsLog, type MetricsRecord, readMetrics } from "./logs.ts";
import { lossCurveSvg } from "./loss_curve.ts";
import { Progress } from "./progress.ts";

/** Numbers of one update. */
export interface StepMetrics {
  /** Mean nats per supervised token. */
  loss: number;
  grad_norm: number;
  learning_rate: number;
  /** Tokens seen since the start of the run. */
  tokens: number;
  /** In mixed precision: the factor of the next update's loss, and how many updates overflowed since the start. */
  loss_scale?: number;
  skipped?: number;
}

export interface ValidationMetrics {
  validation_loss: number;
  bits_per_byte: number;
}

/**
 * Everything a run writes about itself while it goes: `log.jsonl`, TensorBoard events, `samples.txt`, the progress line
 * and, at the end, the loss curve.
 */
export class RunLog {
  lastValidation: ValidationMetrics | null = null;
  readonly #folder: string;
  readonly #metrics: MetricsLog;
  readonly #events: EventWriter;
  readonly #progress: Progress;
  #clock = performance.now();
  #tokens = 0;
  #tokensPerSecond = 0;

  constructor(folder: string, options: { totalSteps: number; startStep: number }) {
    const { totalSteps, startStep } = options;
    this.#folder = folder;
    this.#metrics = new MetricsLog(join(folder, "log.jsonl"), { keepThrough: startStep });
    this.#events = new EventWriter(folder);
    // Standard error may be piped through a filter while a person still watches standard output.
    const stream = !process.stderr.isTTY && process.stdout.isTTY ? process.stdout : process.stderr;
    this.#progress = new Progress({ total: totalSteps, start: startStep, stream });
    for (const record of readMetrics(join(folder, "log.jsonl"))) this.#remember(record);
  }

  step(step: number, metrics: StepMetrics): void {
    const now = performance.now();
    const rate = (1000 * (metrics.tokens - this.#tokens)) / (now - this.#clock);
    // A moving average, since single steps differ; the first step compiles and is left out.
    if (this.#tokens > 0)
      this.#tokensPerSecond += (rate - this.#tokensPerSecond) * (this.#tokensPerSecond === 0 ? 1 : 0.1);
    this.#clock = now;
    this.#tokens = metrics.tokens;
    this.#metrics.write({ step, ...metrics });
    this.#events.scalars(step, { ...metrics });
    this.#progress.update({
      step,
      loss: metrics.loss,
      tokensPerSecond: this.#tokensPerSecond,
      memoryBytes: device().bytesInUse,
      ...(this.lastValidation ? { validationLoss: this.lastValidation.validation_loss } : {}),
    });
  }

  validation(step: number, metrics: ValidationMetrics): void {
    this.lastValidation = metrics;
    this.#metrics.write({ step, ...metrics });
    this.#events.scalars(step, { ...metrics });
    // The pause is not the training's: the next step's rate starts here.
    this.#clock = performance.now();
  }

  /** Keeps the samples of a step in `samples.txt` and shows the first one's start. */
  samples(step: number, texts: readonly string[]): void {
    for (const text of texts)
      appendFileSync(join(this.#folder, "samples.txt"), `=== step ${step} ===\n${text}\n\n`);
    if (texts[0]) this.#progress.note(`  step ${step}: ${texts[0].replaceAll(/\s+/g, " ").slice(0, 140)}…`);
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

  /** Puts what was written on the disk. */
  flush(): void {
    this.#metrics.flush();
    this.#events.flush();
  }

  close(): void {
    this.#progress.end();
    this.#metrics.close();
    this.#events.close();
  }

  #remember(record: MetricsRecord): void {
    const { validation_loss, bits_per_byte } = record;
    if (typeof validation_loss !== "number" || typeof bits_per_byte !== "number") return;
    this.lastValidation = { validation_loss, bits_per_byte };
  }
}
