import { join } from "node:path";
import { atomicWriteFile, writeJson } from "../core/platform/files.ts";
import { dispose } from "../core/scope.ts";
import type { HostBatch, Recipe } from "./recipe.ts";
import { lrRangeSvg } from "./report/lr_range.ts";
import { type RunOptions, trainerOf } from "./run.ts";
import type { RunSettings } from "./settings/run.ts";

/** A learning rate that was tried, and the loss before its update. */
export interface LrTrial {
  learning_rate: number;
  loss: number;
  /** The loss averaged over the trials so far, the newest counting most. */
  smoothed: number;
}

export interface LrRange {
  trials: LrTrial[];
  /** Where the smoothed loss falls fastest over the logarithm of the rate; null where it never falls. */
  steepest: number | null;
  /** A tenth of the rate with the lowest smoothed loss, as Smith and fastai take it; null where it never falls. */
  suggestion: number | null;
  picture: string;
}

const lowest = 1e-7;
const highest = 10;
const memory = 0.9;
/** The loss has run away when it is so many times the lowest. */
const runaway = 4;

/**
 * The learning rate range test (Smith 2017): a fresh model takes one update at each of `steps` rates that rise geometrically
 * from 1e-7 to 10, until its loss runs away. Leaves `lr_range.json` and `lr_range.svg` in the run
 * folder, beside what the recipe prepares of its data: a run may start there afterwards.
 */
export async function lrRangeTest<C extends RunSettings, B extends HostBatch, I extends object>(
  recipe: Recipe<C, B, I>,
  options: RunOptions<C>,
  steps = 100,
): Promise<LrRange> {
  const { config, signal } = options;
  recipe.check?.(config);
  const task = await recipe.open(config, { ...options, resumeFrom: null });
  try {
    const trainer = trainerOf(task, config.train);
    const trials: LrTrial[] = [];
    let average = 0;
    for (let step = 0; step < steps && !signal?.aborted; step++) {
      const learning_rate = lowest * (highest / lowest) ** (step / (steps - 1));
      const micro = Array.from({ length: config.train.gradient_accumulation_steps }, () =>
        task.batches.next(),
      );
      const { supervised, ...numbers } = trainer.step(micro, learning_rate);
      const loss = (await numbers.lossSum.item()) / supervised;
      dispose(numbers);
      average = memory * average + (1 - memory) * loss;
      const smoothed = average / (1 - memory ** (step + 1));
      const least = Math.min(...trials.map((trial) => trial.smoothed));
      // False for NaN, which ends the test too.
      if (!(smoothed <= runaway * least) && step > 0) break;
      trials.push({ learning_rate, loss, smoothed });
    }
    const found = { trials, ...suggest(trials) };
    const picture = join(config.out_dir, "lr_range.svg");
    await writeJson(join(config.out_dir, "lr_range.json"), found);
    await atomicWriteFile(picture, lrRangeSvg({ title: `${config.out_dir}: learning rate range`, ...found }));
    return { ...found, picture };
  } finally {
    task.close();
  }
}

/** What the trials suggest; the first tenth, where the average has seen little, does not count. */
export function suggest(trials: readonly LrTrial[]): Pick<LrRange, "steepest" | "suggestion"> {
  const counted = trials.slice(Math.floor(trials.length / 10));
  const lowest = counted.reduce((best, t) => (t.smoothed < best.smoothed ? t : best), counted[0]);
  const falls = counted
    .slice(1)
    .map((t, i) => ({ fall: counted[i].smoothed - t.smoothed, at: t.learning_rate }));
  const steepest = falls.reduce((best, f) => (f.fall > best.fall ? f : best), { fall: 0, at: 0 });
  if (steepest.fall === 0) return { steepest: null, suggestion: null };
  const rounded = (rate: number) => Number(rate.toPrecision(2));
  return { steepest: rounded(steepest.at), suggestion: rounded(lowest.learning_rate / 10) };
}
