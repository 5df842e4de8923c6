import { z } from "zod";
import { philox4x32, seedWords, toUnit } from "../../core/random.ts";
import { parseWith } from "../../models/formats/validation.ts";
import { recipes } from "../recipes/index.ts";
import { parseSource } from "../settings/load.ts";
import { count, natural } from "../settings/numbers.ts";

/** What a sweep file says: the recipe, what stays the same, what is drawn, and how trials are compared. */

const range = z
  .strictObject({
    min: z.number(),
    max: z.number(),
    scale: z.enum(["linear", "log"]).default("linear"),
    integer: z.boolean().default(false),
  })
  .superRefine(({ min, max, scale }, context) => {
    if (min > max) context.addIssue({ code: "custom", path: ["min"], message: `${min} is above max ${max}` });
    if (scale === "log" && min <= 0)
      context.addIssue({ code: "custom", path: ["min"], message: "a log scale needs a min above 0" });
  });
const choice = z.strictObject({ values: z.array(z.json()).min(1) });
const dimension = z.union([range, choice]);

const schema = z.strictObject({
  recipe: z.enum(Object.keys(recipes) as [string, ...string[]]),
  config: z.string().optional(),
  settings: z.record(z.string(), z.json()).default({}),
  space: z.record(z.string(), dimension).refine((space) => Object.keys(space).length > 0, {
    message:
      "give at least one setting to search, e.g. train.learning_rate: { min: 1e-4, max: 1e-2, scale: log }",
  }),
  metric: z.string().default("validation_loss"),
  trials: count.default(16),
  seed: natural.default(0),
  asha: z.strictObject({ min_steps: count, eta: z.int().min(2).default(3) }).optional(),
  out_dir: z.string().min(1).default("runs/sweep"),
});

/** A checked sweep file. `settings` and the drawn ones go to `kiln train RECIPE` as `--set`. */
export type SweepConfig = z.output<typeof schema>;
export type Dimension = z.output<typeof dimension>;

/** Checks the text of a sweep file (YAML or JSON). Throws a one-line KilnError with the line of the first problem. */
export function parseSweep(text: string, name: string): SweepConfig {
  const source = parseSource(text, name);
  return parseWith(schema, source.value, (path) => {
    const line = source.line(path);
    return line === null ? name : `${name}:${line}`;
  });
}

/** The settings of a trial: they follow from the seed, the trial's number and the order of the space alone. */
export function draw(
  { space, seed }: Pick<SweepConfig, "space" | "seed">,
  trial: number,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(space).map(([name, dimension], i) => {
      const unit = toUnit(philox4x32(seedWords(seed), [trial, i, 0, 0])[0]);
      return [name, valueAt(dimension, unit)];
    }),
  );
}

function valueAt(dimension: Dimension, unit: number): unknown {
  if ("values" in dimension) return dimension.values[Math.floor(unit * dimension.values.length)];
  const { min, max, scale, integer } = dimension;
  // Whole numbers at both ends are as likely as those between.
  const [low, high] = integer ? [min - 0.5, max + 0.5] : [min, max];
  const [from, to] = scale === "log" ? [Math.log(Math.max(low, min / 2)), Math.log(high)] : [low, high];
  const drawn = from + unit * (to - from);
  const value = scale === "log" ? Math.exp(drawn) : drawn;
  if (integer) return Math.min(max, Math.max(min, Math.round(value)));
  return Number(value.toPrecision(4));
}
