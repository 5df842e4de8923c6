import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  SCHEDULE_NAMES,
  type ScheduleConfig,
  scheduleFactor,
  scheduleName,
} from "../train/optimizers/schedules.ts";

const golden = JSON.parse(
  readFileSync(new URL("./fixtures/golden/optim.json", import.meta.url), "utf8"),
).schedules;
const common = { warmup_steps: golden.warmup as number, total_steps: golden.total as number };

describe("schedules", () => {
  // The settings with which the reference was made (the fixtures' generator): polynomial to 1e-4 with power 2, wsd 10 + 30 + 20.
  const settings: Record<string, Partial<ScheduleConfig>> = {
    polynomial: { power: 2, min_lr_ratio: 1e-4 / golden.base_lr },
    wsd: { min_lr_ratio: 0.1, decay_steps: 20 },
  };

  it.each(Object.keys(golden.lr))("%s gives the 60 learning rates of transformers", (name) => {
    const config = { ...common, name: scheduleName(name), ...settings[name] };
    const expected: number[] = golden.lr[name];
    expect(expected.length).toBe(60);
    expected.forEach((rate, step) => {
      const error = Math.abs(golden.base_lr * scheduleFactor(config, step) - rate);
      expect(error, `step ${step}`).toBeLessThanOrEqual(1e-9 * Math.abs(rate));
    });
  });

  it("stays between the minimum and 1 at any step, also past the end and without warm-up", () => {
    for (const name of SCHEDULE_NAMES) {
      for (const warmup_steps of [0, 7]) {
        const config = { name, warmup_steps, total_steps: 40, min_lr_ratio: 0.1 };
        for (let step = warmup_steps; step < 100; step++) {
          const factor = scheduleFactor(config, step);
          expect(factor).toBeLessThanOrEqual(1);
          if (name !== "inverse_sqrt") expect(factor).toBeGreaterThanOrEqual(0.1 - 1e-12);
        }
        if (warmup_steps > 0 && name !== "constant")
          expect(scheduleFactor(config, 0)).toBe(name === "wsd" ? 0.1 : 0);
      }
    }
    expect(scheduleFactor({ name: "cosine", ...common, min_lr_ratio: 0.1 }, 60)).toBeCloseTo(0.1, 12);
    expect(scheduleFactor({ name: "linear", ...common }, 61)).toBe(0);
  });

  it("names the nearest schedule for an unknown one", () => {
    expect(() => scheduleName("cosin")).toThrow('unknown schedule "cosin"; did you mean "cosine"?');
    expect(() => scheduleName("zzzzzzzzz")).toThrow("choose one of constant, constant_with_warmup");
  });
});
