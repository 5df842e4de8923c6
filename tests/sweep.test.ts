import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parallelCoordinatesSvg } from "../train/report/parallel_coordinates.ts";
import { draw, parseSweep } from "../train/sweep/space.ts";
import { TrialRun } from "../train/sweep/trial.ts";

const parse = (space: string, rest = "") =>
  parseSweep(`recipe: pretrain\nspace:\n  ${space}\n${rest}`, "sweep.yaml");

describe("a sweep file", () => {
  it("is refused with the line and what is wrong", () => {
    const rate = "train.learning_rate: { min: 1, max: 2 }";
    expect(() => parse("train.learning_rate: { min: 3, max: 2 }")).toThrow(
      "sweep.yaml:3: space.train.learning_rate",
    );
    expect(() => parse("train.learning_rate: { min: 0, max: 2, scale: log }")).toThrow(
      "a log scale needs a min above 0",
    );
    expect(() => parse("train.learning_rate: { values: [] }")).toThrow("sweep.yaml:3");
    expect(() => parse(rate, "metrik: x")).toThrow("did you mean metric?");
    expect(() => parseSweep("recipe: pretrain\nspac: {}", "s.yaml")).toThrow(
      "s.yaml:2: unknown key spac; did you mean space?",
    );
    expect(() => parse(rate, "asha: { eta: 3 }")).toThrow("asha.min_steps");
    expect(() => parseSweep("recipe: pretrian\nspace: {}", "s.yaml")).toThrow(
      's.yaml:1: recipe is "pretrian"; expected "pretrain"',
    );
    expect(() => parseSweep("recipe: pretrain\nspace: {}", "s.yaml")).toThrow(
      "give at least one setting to search",
    );
  });
});

describe("what a trial draws", () => {
  it("follows from seed and number alone, whatever other trials there are", () => {
    const { space } = parse(
      "train.learning_rate: { min: 1e-4, max: 1e-2, scale: log }\n  train.batch_size: { values: [2, 4] }",
    );
    const all = Array.from({ length: 20 }, (_, i) => draw({ space, seed: 7 }, i));
    expect(draw({ space, seed: 7 }, 13)).toEqual(all[13]);
    expect(new Set(all.map((settings) => settings["train.learning_rate"])).size).toBe(20);
    expect(draw({ space, seed: 8 }, 13)).not.toEqual(all[13]);
  });

  it("is inside its range, whole where that is asked for, and reaches both ends", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 0, max: 50 }),
        fc.boolean(),
        fc.nat(1e6),
        (min, width, log, seed) => {
          const scale = log ? "log" : ("linear" as const);
          const space = {
            whole: { min, max: min + width, scale, integer: true },
            real: { min, max: min + width, scale, integer: false },
          };
          for (let i = 0; i < 20; i++) {
            const { whole, real } = draw({ space: space as never, seed }, i) as {
              whole: number;
              real: number;
            };
            expect(Number.isInteger(whole)).toBe(true);
            for (const value of [whole, real]) expect(value >= min && value <= min + width).toBe(true);
          }
        },
      ),
    );
    const { space } = parse("train.batch_size: { min: 2, max: 4, integer: true }");
    const seen = Array.from({ length: 60 }, (_, i) => draw({ space, seed: 1 }, i)["train.batch_size"]);
    expect([...new Set(seen)].sort()).toEqual([2, 3, 4]);
  });

  it("is as likely below as above the middle of a log scale", () => {
    const { space } = parse("train.learning_rate: { min: 1e-4, max: 1e-2, scale: log }");
    const below = Array.from(
      { length: 2000 },
      (_, i) => (draw({ space, seed: 3 }, i)["train.learning_rate"] as number) < 1e-3,
    );
    expect(Math.abs(below.filter(Boolean).length - 1000)).toBeLessThan(4 * Math.sqrt(500));
  });
});

it("a picture has an axis for each setting and the metric, and a line for each trial with a result", () => {
  const { space } = parse(
    'train.learning_rate: { min: 1e-4, max: 1e-2, scale: log }\n  "train.<x>": { values: [adamw, muon] }',
  );
  const trial = (name: string, value: number | null, rate: number, other: string) => ({
    name,
    value,
    steps: 1,
    failure: null,
    settings: { "train.learning_rate": rate, "train.<x>": other },
  });
  const trials = [trial("a", 1, 1e-2, "adamw"), trial("b", 3, 1e-4, "muon"), trial("c", null, 1e-3, "muon")];
  const svg = parallelCoordinatesSvg({ title: "s & t", metric: "loss", trials, space });
  expect(svg.match(/<polyline/g)).toHaveLength(2);
  expect(svg.match(/class="axis"/g)).toHaveLength(3);
  expect(svg).toContain("&lt;x&gt;");
  expect(svg).toContain("s &amp; t");
  const points = /class="trial best" points="([^"]+)"/
    .exec(svg)![1]
    .split(" ")
    .map((p) => Number(p.split(",")[1]));
  // Rate at the top, the first choice at the bottom, the lowest loss at the bottom.
  expect(points[0]).toBeLessThan(points[1]);
  expect(points[2]).toBe(points[1]);
});

it("a trial that is stopped while it starts has not failed", async () => {
  const out_dir = mkdtempSync(join(tmpdir(), "kiln-sweep-"));
  const sweep = { ...parse("train.learning_rate: { min: 1, max: 2 }"), out_dir };
  const run = new TrialRun(sweep, 0);
  const controller = new AbortController();
  const ended = run.train(5, controller.signal);
  setTimeout(() => controller.abort(), 100); // Node itself takes longer
  await ended;
  rmSync(out_dir, { recursive: true });
  expect(run.trial).toMatchObject({ failure: null, steps: 0, value: null });
});
