import { spawn } from "node:child_process";
import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { type MetricsRecord, readMetrics } from "../report/metrics_log.ts";
import { listCheckpoints } from "../run_files.ts";
import { draw, type SweepConfig } from "./space.ts";

/** What is known of a trial. */
export interface Trial {
  /** `trial-007`, also its folder in the sweep's. */
  name: string;
  settings: Record<string, unknown>;
  /** Updates done. */
  steps: number;
  /** The last measurement of the sweep's metric; null before the first. */
  value: number | null;
  /** Why it ended without a result, in one line. */
  failure: string | null;
}

/** One trial of a sweep: a run of `kiln train` in a process and a folder of its own. */
export class TrialRun {
  readonly trial: Trial;
  readonly #sweep: SweepConfig;
  readonly #folder: string;

  constructor(sweep: SweepConfig, index: number) {
    const name = `trial-${String(index).padStart(3, "0")}`;
    this.#sweep = sweep;
    this.#folder = join(sweep.out_dir, name);
    this.trial = { name, settings: draw(sweep, index), steps: 0, value: null, failure: null };
    this.#read();
  }

  /** The metric as it was measured after `step` updates, or null where it was not. */
  valueAt(step: number): number | null {
    const record = this.#measurements().find((r) => r.step === step);
    return record ? this.#metricOf(record) : null;
  }

  /** Trains to the end, or until the metric has been measured after `until` updates; goes on where it was paused. */
  async train(until: number, signal: AbortSignal): Promise<void> {
    if (this.valueAt(until) !== null) return;
    const resumes = (await listCheckpoints(this.#folder)).length > 0;
    const child = spawn(process.execPath, [join(packageRoot, "bin/kiln.mjs"), ...this.#arguments(resumes)], {
      stdio: ["ignore", "ignore", "pipe"],
      // Ctrl-C reaches this process alone, which pauses the trial once; a second signal would end it without saving.
      detached: true,
    });
    let errors = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      errors = (errors + text).slice(-4000);
    });
    let paused = false;
    const pause = () => {
      if (!paused) child.kill("SIGTERM");
      paused = true;
    };
    signal.addEventListener("abort", pause);
    const watch = setInterval(() => {
      if (this.#measurements().some(({ step }) => step >= until)) pause();
    }, 200);
    const [code, by] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (...ended) => resolve(ended));
    });
    clearInterval(watch);
    signal.removeEventListener("abort", pause);
    this.#read();
    // A trial that is paused before it listens for signals is ended by this one, with nothing to save yet.
    if (code === 0 || code === 130 || (paused && by === "SIGTERM")) return;
    const line = errors.trim().split("\n").at(-1) ?? "";
    this.trial.failure = line.replace(/^kiln: /, "") || `kiln train ended with status ${code}`;
  }

  #arguments(resumes: boolean): string[] {
    const { recipe, config, settings, asha } = this.#sweep;
    const out = ["--out", this.#folder];
    if (resumes) return ["train", recipe, ...out, "--resume"];
    const every = asha && { "eval.every": asha.min_steps };
    const all = Object.entries({ ...settings, ...every, ...this.trial.settings });
    const sets = all.flatMap(([name, value]) => ["--set", `${name}=${JSON.stringify(value)}`]);
    return ["train", recipe, ...(config ? [config] : []), ...sets, ...out];
  }

  #measurements(): MetricsRecord[] {
    return readMetrics(join(this.#folder, "log.jsonl")).filter(({ loss }) => loss === undefined);
  }

  #read(): void {
    const records = readMetrics(join(this.#folder, "log.jsonl"));
    const last = this.#measurements().at(-1);
    this.trial.steps = records.reduce((most, { step }) => Math.max(most, step), 0);
    this.trial.value = last ? this.#metricOf(last) : null;
  }

  #metricOf(record: MetricsRecord): number {
    const { metric } = this.#sweep;
    const value = record[metric];
    if (typeof value === "number") return value;
    const names = Object.keys(record).filter((name) => name !== "step" && typeof record[name] === "number");
    throw new KilnError(`metric: the runs do not measure ${metric}; they measure ${names.join(", ")}`, {
      code: "config_invalid",
    });
  }
}
