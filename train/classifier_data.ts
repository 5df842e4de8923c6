import { createHash } from "node:crypto";
import { z } from "zod";
import { configError } from "../models/formats/validation.ts";
import type { LabelKeys } from "../models/labels.ts";
import { type LabelledText, labelIds, orderLabels, readLabelled, stratifiedSplit } from "./data/index.ts";
import { listed } from "./data/labels.ts";
import { tableFormats } from "./data/table.ts";
import type { RecipeContext } from "./recipe.ts";
import { natural, positive, share } from "./settings/numbers.ts";
import { paths } from "./settings/text.ts";

/** What a text classifier learns from: its settings, and from them to texts with numbered labels. */

const column = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]).optional();

export const labelledData = z
  .strictObject({
    path: paths
      .optional()
      .describe("tables of texts and labels: CSV, TSV, JSON, JSONL, Parquet or lines, plain or .gz"),
    validation_path: paths
      .optional()
      .describe("tables to measure on and to stop by; where not given, a share of the data"),
    test_path: paths.optional().describe("tables to measure the finished model on, once"),
    text: column.describe("column of the text, or several that are joined; else one with a usual name"),
    label: column.describe(
      "column of the label, or several of 0 and 1, each a label; else one with a usual name",
    ),
    format: z.enum(tableFormats).optional().describe("where the file's name and content do not say it"),
    validation_fraction: share
      .default(0.1)
      .describe("share of each label held out where no validation_path is given"),
    test_fraction: share
      .optional()
      .describe(
        "share of each label for a test of the finished model, where no test_path is given; 0.1 with eval.patience, else 0",
      ),
    seed: natural.default(0).describe("which texts are held out"),
    class_weights: z
      .union([z.boolean(), z.record(z.string(), positive)])
      .default(false)
      .describe(
        "what texts count in the loss: true so that all labels count alike, or by label, as {0: 2}; else 1",
      ),
  })
  .prefault({})
  .describe("what to train on");

type DataSettings = z.output<typeof labelledData>;

export interface ClassifierData {
  train: LabelledText[];
  validation: LabelledText[];
  /** Empty where the settings ask for none. */
  test: LabelledText[];
  /** Whether a text may have any number of labels. */
  isSeveral: boolean;
  /** Changes when the texts or labels do, not with their order. */
  hash: string;
}

/**
 * Reads labelled texts, holds some out, and says what it found. A run that stops early (`stopsEarly`) gets test data too: what
 * chose the step does not measure the model. Texts are put in an order of their own, so that the rows of
 * the files may be in any. Errors: those of `readLabelled` and `stratifiedSplit`; no path; a single label.
 */
export async function readTexts(
  data: DataSettings,
  stopsEarly: boolean,
  say: RecipeContext["say"],
): Promise<ClassifierData> {
  if (!data.path) throw configError("data.path is missing: name a table of texts and labels with --data");
  const read = async (files: readonly string[]) => {
    const leftOut = new Map<string, number>();
    const texts: LabelledText[] = [];
    const options = { text: data.text, label: data.label, format: data.format, say };
    const count = (what: string) => void leftOut.set(what, (leftOut.get(what) ?? 0) + 1);
    for await (const text of readLabelled(files, options, count)) texts.push(text);
    for (const [what, many] of leftOut) say(`left out of ${files.join(", ")}: ${what} ${many}`);
    const keys = new Map(texts.map((each) => [each, JSON.stringify([each.text, each.labels])]));
    const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
    return texts.sort((a, b) => compare(keys.get(a)!, keys.get(b)!));
  };
  const all = await read(data.path);
  const [other, test] = [
    data.validation_path && (await read(data.validation_path)),
    data.test_path && (await read(data.test_path)),
  ];
  const labels = orderLabels(all.flatMap((text) => text.labels));
  if (labels.length < 2) {
    throw configError(
      `${data.path.join(", ")}: the only label is ${listed(labels)}; a classifier needs two or more`,
    );
  }
  const { validation_fraction, test_fraction = stopsEarly ? 0.1 : 0, seed } = data;
  const split = (texts: readonly LabelledText[], fraction: number) =>
    stratifiedSplit(
      texts.map((text) => text.labels.join("\n")),
      { fraction, seed },
    );
  const { train: rest, validation: tested, once } = split(all, test ? 0 : test_fraction);
  const remaining = Array.from(rest, (i) => all[i]);
  const { train, validation } = split(remaining, other ? 0 : validation_fraction);
  if (once.length > 0) {
    say(
      `labels that occur once are trained on but never measured: ${listed(once)}; give more rows of them, or none`,
    );
  }
  const hash = createHash("sha256");
  for (const { text, labels: own } of [all, other ?? [], test ?? []].flat())
    hash.update(JSON.stringify([text, own]));
  const result = {
    train: Array.from(train, (i) => remaining[i]),
    validation: other ?? Array.from(validation, (i) => remaining[i]),
    test: test ?? Array.from(tested, (i) => all[i]),
    isSeveral: [data.label ?? []].flat().length > 1 || all.some((text) => text.labels.length !== 1),
    hash: hash.digest("hex"),
  };
  const [texts, held, last] = [result.train, result.validation, result.test].map(({ length }) =>
    length.toLocaleString("en"),
  );
  const tests = result.test.length > 0 ? `; for a test at the end: ${last}` : "";
  say(
    `training data: ${texts} texts with ${labels.length} labels (${listed(labels, 5)}); held out: ${held}${tests}`,
  );
  return result;
}

/** What a model should say of each text: the number of its label in `names`, or 0 or 1 for each name. */
export function targetsOf(
  texts: readonly LabelledText[],
  names: readonly string[],
  problem: LabelKeys["problem_type"],
): number[][] {
  const rows = texts.map(({ labels }) => [...labelIds(labels, names)]);
  if (problem === "multi_label_classification")
    return rows.map((ids) => names.map((_, i) => (ids.includes(i) ? 1 : 0)));
  const several = rows.findIndex((ids) => ids.length !== 1);
  if (several < 0) return rows;
  throw configError(
    `${texts[several].where} has ${rows[several].length} labels, but the model was made for exactly one of ${listed(names)}: give each text one, or train a model of its own`,
  );
}
