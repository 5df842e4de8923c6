import { nearestName } from "../../core/errors.ts";
import { configError } from "../../models/formats/validation.ts";

/** The learning-rate schedules, named as in transformers' optimization.py. */
export const SCHEDULE_NAMES = [
  "constant",
  "constant_with_warmup",
  "linear",
  "cosine",
  "inverse_sqrt",
  "polynomial",
  "wsd",
] as const;
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

/** A schedule; steps count optimizer updates from 0. */
export interface ScheduleConfig {
  name: ScheduleName;
  /** Updates over which the rate rises linearly. */
  warmup_steps: number;
  /** Updates of the whole run; unused by the constant ones and inverse_sqrt. */
  total_steps: number;
  /** The lowest rate as a share of the highest: where linear, cosine, polynomial and wsd end. Default 0. */
  min_lr_ratio?: number;
  /** cosine: waves after the warm-up; 0.5 (default) falls once from 1 to the minimum. */
  num_cycles?: number;
  /** polynomial: exponent of the remaining share; default 1. */
  power?: number;
  /** inverse_sqrt: steps after which the rate has the value timescale / step roots; default warmup_steps, or 10000. */
  timescale?: number;
  /** wsd: updates of the final decay; default a fifth of the updates after the warm-up. */
  decay_steps?: number;
}

/** Checks a schedule's name. Throws a KilnError with the nearest valid one. */
export function scheduleName(name: string): ScheduleName {
  const known = SCHEDULE_NAMES.find((candidate) => candidate === name);
  if (known !== undefined) return known;
  const near = nearestName(name, SCHEDULE_NAMES);
  const hint = near === null ? `choose one of ${SCHEDULE_NAMES.join(", ")}` : `did you mean "${near}"?`;
  throw configError(`unknown schedule ${JSON.stringify(name)}; ${hint}`);
}

/**
 * The learning rate of update `step` (from 0) as a share of the highest, as transformers' get_*_schedule functions give it.
 * Deliberately the same at step 0: with a warm-up the first update has rate 0 (wsd: its minimum).
 */
export function scheduleFactor(config: ScheduleConfig, step: number): number {
  const floor = config.min_lr_ratio ?? 0;
  const lift = (share: number) => floor + (1 - floor) * share;
  const warmup = config.warmup_steps;
  if (config.name === "constant") return 1;
  if (step < warmup) return config.name === "wsd" ? lift(step / warmup) : step / warmup;
  switch (config.name) {
    case "constant_with_warmup":
      return 1;
    case "linear":
      return lift(remaining(config, step));
    case "cosine": {
      const progress = (step - warmup) / Math.max(1, config.total_steps - warmup);
      const wave = Math.cos(Math.PI * (config.num_cycles ?? 0.5) * 2 * progress);
      return lift(Math.max(0, 0.5 * (1 + wave)));
    }
    case "inverse_sqrt": {
      const timescale = config.timescale ?? (warmup || 10_000);
      return 1 / Math.sqrt((step + timescale - warmup) / timescale);
    }
    case "polynomial":
      return lift(remaining(config, step) ** (config.power ?? 1));
    case "wsd": {
      const after = Math.max(0, config.total_steps - warmup);
      const decay = config.decay_steps ?? Math.round(after / 5);
      const progress = (step - (config.total_steps - decay)) / decay;
      if (progress < 0) return 1;
      return progress < 1 ? lift(0.5 * (1 + Math.cos(Math.PI * progress))) : floor;
    }
    default:
      return scheduleFactor({ ...config, name: scheduleName(config.name) }, step);
  }
}

/** The share of the updates after the warm-up that is still ahead, from 1 down to 0. */
function remaining({ total_steps, warmup_steps }: ScheduleConfig, step: number): number {
  return Math.max(0, (total_steps - step) / Math.max(1, total_steps - warmup_steps));
}
