import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type LrTrial, lrRangeTest, suggest } from "../train/lr_range_test.ts";
import { loadPretrainConfig, recipe } from "../train/recipes/pretrain.ts";
import { parseOverrides } from "../train/settings/load.ts";
import { toyRuns } from "./support/train_toy.ts";

const { place, toy } = toyRuns();
const curve = (...losses: number[]): LrTrial[] =>
  losses.map((loss, i) => ({ learning_rate: 10 ** (i - losses.length), loss, smoothed: loss }));

describe("the learning rate range test", () => {
  it("suggests a tenth of the lowest point, and says where the loss falls fastest", () => {
    expect(suggest(curve(5, 5, 4.9, 4, 3.5, 3.4, 9))).toEqual({ steepest: 1e-4, suggestion: 1e-3 });
    expect(suggest(curve(5, 5.1, 5.2))).toEqual({ steepest: null, suggestion: null });
  });

  it("finds a rate between too small and running away, the same one each time, and leaves no run behind", async () => {
    const out = place("range");
    const config = await loadPretrainConfig(
      null,
      parseOverrides([...toy, "train.batch_size=4", `out_dir=${out}`]),
    );
    const options = { config, makeSampler: () => async () => "", say: () => {} };
    const found = await lrRangeTest(recipe, options);
    expect(found.suggestion).toBeGreaterThan(1e-5);
    expect(found.suggestion).toBeLessThan(1);
    expect(found.trials.length).toBeLessThanOrEqual(100);
    expect(await lrRangeTest(recipe, options)).toEqual(found);
    expect(readdirSync(out).sort()).toEqual(["lr_range.json", "lr_range.svg", "tokenizer", "tokens"]);
    expect(readFileSync(found.picture, "utf8")).toContain(`suggestion ${found.suggestion}`);
  });
});
