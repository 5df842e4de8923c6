import { type ScheduleConfig, scheduleFactor, scheduleName } from "../../train/optimizers/schedules.ts";
import { compare, type Report } from "./report.ts";

export interface ScheduleFile {
  base_lr: number;
  warmup: number;
  total: number;
  /** Learning rate of every step by schedule. */
  lr: Record<string, number[]>;
}

/**
 * What the files leave out and the reference was made with: polynomial falls to 1e-4 with power 2; wsd holds for half of
 * the run, then falls to a tenth over a third of it.
 */
function extras(name: string, { base_lr, total }: ScheduleFile): Partial<ScheduleConfig> {
  if (name === "polynomial") return { power: 2, min_lr_ratio: 1e-4 / base_lr };
  return name === "wsd" ? { min_lr_ratio: 0.1, decay_steps: total / 3 } : {};
}

/** Every step's learning rate within a relative 1e-9: both sides are float64. */
export async function verifySchedules(report: Report, prefix: string, file: ScheduleFile): Promise<void> {
  for (const [name, rates] of Object.entries(file.lr)) {
    await report.check(`${prefix}/${name}`, () => {
      const config = {
        name: scheduleName(name),
        warmup_steps: file.warmup,
        total_steps: file.total,
        ...extras(name, file),
      };
      const got = rates.map((_, step) => file.base_lr * scheduleFactor(config, step));
      return compare(got, rates, { atol: 1e-15, rtol: 1e-9 });
    });
  }
}
