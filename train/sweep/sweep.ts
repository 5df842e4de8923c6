import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteFile, readJson, readText, writeJson } from "../../core/platform/files.ts";
import { recipes } from "../recipes/index.ts";
import { parallelCoordinatesSvg } from "../report/parallel_coordinates.ts";
import { isBetter } from "../run.ts";
import { lockRun } from "../run_lock.ts";
import { loadSettings, parseOverrides } from "../settings/load.ts";
import { draw, parseSweep, type SweepConfig } from "./space.ts";
import { type Trial, TrialRun } from "./trial.ts";

interface SweepOptions {
  config: SweepConfig;
  /** Updates of a trial that is trained to the end; null where epochs decide. */
  steps: number | null;
  /** Trials that train at the same time. */
  parallel: number;
  say: (line: string) => void;
  /** Pauses the running trials; the same sweep goes on later. */
  signal: AbortSignal;
}

interface SweepResult {
  /** Best first; those without a result last. */
  trials: Trial[];
  folder: string;
  /** The picture of all trials. */
  picture: string;
}

/** Reads a sweep file, checks what all trials share before any is trained, and sweeps. */
export async function runSweep(
  path: string,
  flags: { trials?: number; out?: string } & Pick<SweepOptions, "parallel" | "say" | "signal">,
): Promise<SweepResult & { config: SweepConfig }> {
  const { trials, out, ...options } = flags;
  const file = parseSweep(await readText(path), path);
  const config = {
    ...file,
    ...(file.config && { config: resolve(dirname(path), file.config) }),
    ...(trials && { trials }),
    ...(out && { out_dir: out }),
  };
  const recipe = await recipes[config.recipe].load();
  const settings = Object.entries({ ...config.settings, ...draw(config, 0) });
  const overrides = parseOverrides(settings.map(([name, value]) => `${name}=${JSON.stringify(value)}`));
  const { train } = await loadSettings(recipe, config.config ?? null, overrides);
  const steps = train.epochs ? null : (train.steps ?? 1000);
  return { ...(await sweep({ ...options, config, steps })), config };
}

/**
 * Trains trials with settings drawn at random (Bergstra & Bengio 2012), each to the end or, with `asha`, by asynchronous
 * successive halving (Li et al. 2020): every trial gets `min_steps`, and the best 1/eta of those that got as far get eta
 * times as many. Everything follows from the file and the trials' folders, so that an interrupted sweep goes on.
 */
async function sweep(options: SweepOptions): Promise<SweepResult> {
  const { config } = options;
  await mkdir(config.out_dir, { recursive: true });
  const release = lockRun(config.out_dir);
  try {
    await assertSame(config);
    const search = new Search(options);
    await Promise.all(Array.from({ length: options.parallel }, () => search.work()));
    return await finish(options, search.runs);
  } finally {
    release();
  }
}

/** A folder holds one sweep: its trials must come from the same file, which may ask for more of them. */
async function assertSame(config: SweepConfig): Promise<void> {
  const path = join(config.out_dir, "sweep.json");
  const essence = ({ trials: _t, out_dir: _o, ...rest }: SweepConfig) => JSON.parse(JSON.stringify(rest));
  if (existsSync(path)) {
    const before = ((await readJson(path)) as { sweep: SweepConfig }).sweep;
    if (!isDeepStrictEqual(essence(before), essence(config)))
      throw new KilnError(
        `${config.out_dir} holds another sweep; give another out_dir, or the file that it started with (${path} has it)`,
        { code: "settings_differ" },
      );
  }
  await writeJson(path, { sweep: config });
}

/** Decides what is trained next. */
class Search {
  readonly runs: TrialRun[] = [];
  readonly #options: SweepOptions;
  /** Updates after which trials are compared; the last is the end. */
  readonly #rungs: number[];
  /** The rung that each trial was last sent to, and those that are training. */
  readonly #sentTo = new Map<TrialRun, number>();
  readonly #training = new Set<TrialRun>();

  constructor(options: SweepOptions) {
    this.#options = options;
    const { asha } = options.config;
    if (asha && options.steps === null)
      throw new KilnError(
        "asha: trials are compared after so many updates; give train.steps instead of epochs",
      );
    this.#rungs = [];
    if (asha)
      for (let steps = asha.min_steps; steps < options.steps!; steps *= asha.eta) this.#rungs.push(steps);
    this.#rungs.push(Number.POSITIVE_INFINITY);
  }

  /** Trains one trial after the other until nothing is left to do. */
  async work(): Promise<void> {
    const { signal, say, config } = this.#options;
    while (!signal.aborted) {
      const next = this.#next();
      if (!next) {
        if (this.#training.size === 0) return;
        // What is training may yet be promoted, or make room for another.
        await new Promise((resolve) => setTimeout(resolve, 200));
        continue;
      }
      const { run, rung } = next;
      this.#sentTo.set(run, rung);
      this.#training.add(run);
      await run.train(this.#rungs[rung], signal).finally(() => this.#training.delete(run));
      const { name, steps, value, failure } = run.trial;
      if (failure !== null && !failure.startsWith("step ")) throw new KilnError(`${name}: ${failure}`);
      if (signal.aborted) return;
      say(`${name}  step ${steps}  ${failure ?? `${config.metric} ${value?.toFixed(4)}`}`);
    }
  }

  /** A trial that earned more updates, the highest rung first; else a new one. */
  #next(): { run: TrialRun; rung: number } | null {
    const { config } = this.#options;
    const eta = config.asha?.eta ?? 1;
    for (let rung = this.#rungs.length - 2; rung >= 0; rung--) {
      const reached = this.runs.filter(
        (run) => !this.#training.has(run) && this.#valueAt(run, rung) !== null,
      );
      reached.sort((a, b) => order(config.metric, this.#valueAt(a, rung), this.#valueAt(b, rung)));
      const best = reached.slice(0, Math.floor(reached.length / eta));
      const run = best.find((candidate) => this.#sentTo.get(candidate)! <= rung);
      if (run) return { run, rung: rung + 1 };
    }
    if (this.runs.length === config.trials) return null;
    const run = new TrialRun(config, this.runs.length);
    this.runs.push(run);
    return { run, rung: 0 };
  }

  #valueAt(run: TrialRun, rung: number): number | null {
    return run.trial.failure === null && this.#sentTo.has(run) ? run.valueAt(this.#rungs[rung]) : null;
  }
}

/** For sorting: the better value first, none last. */
function order(metric: string, a: number | null, b: number | null): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  return isBetter(metric, a, b, 0) ? -1 : isBetter(metric, b, a, 0) ? 1 : 0;
}

async function finish({ config, signal }: SweepOptions, runs: readonly TrialRun[]): Promise<SweepResult> {
  const { out_dir: folder, metric } = config;
  const trials = runs.map(({ trial }) => trial);
  // A trial that was ended early is no rival of one that was trained longer.
  const furthest = Math.max(...trials.map(({ steps }) => steps));
  const rank = ({ steps, value }: Trial) => (value === null ? 2 : steps === furthest ? 0 : 1);
  trials.sort((a, b) => rank(a) - rank(b) || order(metric, a.value, b.value));
  const picture = join(folder, "parallel_coordinates.svg");
  await writeJson(join(folder, "sweep.json"), { sweep: config, trials });
  await atomicWriteFile(
    picture,
    parallelCoordinatesSvg({ title: relative(".", folder) || folder, metric, trials, space: config.space }),
  );
  if (signal.aborted)
    throw new KilnError("stopped; the trials are saved: the same command goes on", {
      code: "interrupted",
      exitCode: 130,
    });
  return { trials, folder, picture };
}

/** The trials as a table for people, best first. */
export function sweepTable({ metric, space }: SweepConfig, trials: readonly Trial[]): string {
  const names = Object.keys(space);
  const rows = trials.map(({ name, steps, value, settings, failure }) => [
    name,
    value === null ? (failure ?? "–") : value.toFixed(4),
    String(steps),
    ...names.map((key) => String(settings[key])),
  ]);
  const table = [["trial", metric, "steps", ...names.map((name) => name.replace(/^train\./, ""))], ...rows];
  const widths = table[0].map((_, i) => Math.max(...table.map((row) => Math.min(row[i].length, 40))));
  return table
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
