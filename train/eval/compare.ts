import { KilnError } from "../../core/errors.ts";
import { fromPretrained, type LoadedModel, loadModel } from "../../models/formats/hf_directory.ts";
import { readDocuments } from "../data/index.ts";
import { MultipleChoice } from "../metrics/choice.ts";
import { McNemar, pairedBootstrap } from "../metrics/significance.ts";
import type { EvaluationReport } from "../report/evaluation.ts";
import { scoreChoices } from "./choice.ts";
import { type ClassifyFlags, classifyTexts } from "./classify.ts";
import { type PerplexityFlags, scoreDocuments, windowOptions } from "./perplexity.ts";

const comparable = ["perplexity", "choice", "classify"] as const;

export interface CompareFlags extends ClassifyFlags, PerplexityFlags {
  task: (typeof comparable)[number];
  seed?: number;
  dtype?: "f32" | "f16";
}

/** What an item of the data adds to the sums behind each metric. */
type Row = Record<string, number[]>;

const bitsPerByte = ([nats, bytes]: readonly number[]) => nats / bytes / Math.LN2;

/** The rows of a model, by the number of the item. Two short lists of numbers an item are kept: tests need all of them. */
async function rowsOf(name: string, path: string, flags: CompareFlags): Promise<Map<number, Row>> {
  const rows = new Map<number, Row>();
  const skip = () => {};
  const right = (is: boolean) => [is ? 1 : 0];
  if (flags.task === "classify") {
    for await (const { index, actual, probabilities } of classifyTexts(
      await fromPretrained(path, flags),
      name,
      flags,
      skip,
    )) {
      const most = probabilities.indexOf(Math.max(...probabilities));
      const says = actual.length === 1 ? [most] : probabilities.flatMap((p, i) => (p >= 0.5 ? [i] : []));
      rows.set(index, {
        accuracy: right(says.length === actual.length && says.every((i) => actual.includes(i))),
      });
    }
    return rows;
  }
  const loaded: LoadedModel = await loadModel(path, flags.dtype);
  if (flags.task === "choice") {
    for await (const { index, choices, logLikelihoods, answers } of scoreChoices(loaded, flags.data, skip)) {
      const { acc, accNorm, accBytes } = new MultipleChoice().add(choices, logLikelihoods, answers);
      const is = (picked: number) => right(answers.includes(picked));
      rows.set(index, { acc: is(acc), acc_norm: is(accNorm), acc_bytes: is(accBytes) });
    }
    return rows;
  }
  const documents = readDocuments(flags.data, flags);
  for await (const { logLikelihood, size } of scoreDocuments(
    loaded,
    documents,
    windowOptions(loaded.model, flags),
  ))
    rows.set(rows.size, { bits_per_byte: [-logLikelihood, size.bytes] });
  return rows;
}

/**
 * Whether model B differs from model A on the same items: a paired bootstrap of each metric, and McNemar's test where items
 * are right or wrong. `paths` are those of the models called `names`.
 * Errors: fewer than two items that both models read.
 */
export async function compareModels(
  names: readonly [string, string],
  paths: readonly [string, string],
  flags: CompareFlags,
): Promise<EvaluationReport> {
  const { task, seed = 0 } = flags;
  const a = await rowsOf(names[0], paths[0], flags);
  const b = await rowsOf(names[1], paths[1], flags);
  const both = [...a.keys()].filter((index) => b.has(index));
  if (both.length < 2)
    throw new KilnError(
      `${flags.data.join(", ")} has ${both.length} ${both.length === 1 ? "item" : "items"} that both models read; a comparison needs 2 at least, and hundreds to find small differences`,
    );
  const metrics = Object.keys(a.get(both[0])!).map((metric) => {
    const [rowsA, rowsB] = [a, b].map((rows) => both.map((index) => rows.get(index)![metric]));
    const score = task === "perplexity" ? { score: bitsPerByte } : {};
    const found = { metric, ...pairedBootstrap(rowsA, rowsB, { seed, ...score }) };
    if (task === "perplexity") return { ...found, mcnemar: null };
    const test = new McNemar();
    rowsA.forEach(([right], i) => {
      test.add(right === 1, rowsB[i][0] === 1);
    });
    return { ...found, mcnemar: test.value() };
  });
  const head = [
    "metric",
    "A",
    "B",
    "B - A",
    "95% interval",
    "p (bootstrap)",
    "p (McNemar)",
    "only A right",
    "only B right",
  ];
  return {
    title: `${names[1]} (B) against ${names[0]} (A)`,
    values: {
      task: `compare ${task}`,
      a: names[0],
      b: names[1],
      data: flags.data,
      seed,
      items: both.length,
      left_out: Math.max(a.size, b.size) - both.length,
      metrics,
    },
    tables: [
      {
        head: task === "perplexity" ? head.slice(0, 6) : head,
        rows: metrics.map(({ metric, mcnemar, ...found }) => [
          ...[metric, found.a, found.b, found.difference, found.interval, found.pValue],
          ...(mcnemar ? [mcnemar.exact, mcnemar.onlyA, mcnemar.onlyB] : []),
        ]),
      },
    ],
    notes: [
      `${both.length.toLocaleString("en")} items that both models read, 1,000 resamples (seed ${seed}). ${task === "perplexity" ? "Fewer bits per byte are better." : "p of McNemar's exact test."}`,
      ...metrics.map(
        ({ metric, pValue }) =>
          `${metric}: ${pValue < 0.05 ? "the difference is significant (p < 0.05)" : "the difference may be chance (p >= 0.05)"}.`,
      ),
    ],
  };
}
