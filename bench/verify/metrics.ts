import { stem } from "../../tokenizer/text/stem.ts";
import { Bleu, Chrf, Classification, rouge, Ter } from "../../train/metrics/index.ts";
import { compare, type Report, worst } from "./report.ts";

type Triple = [precision: number, recall: number, f1: number];

/** Scores of sentences by sacrebleu and of predictions by scikit-learn. */
export interface MetricsFile {
  hypotheses: string[];
  references: string[];
  sacrebleu: { score: number; precisions: number[]; bp: number };
  sentence_bleu: number[];
  chrf: number;
  ter: number;
  /** Further fields: accuracy, mcc and averages such as f1_macro. */
  classification: { y: number[]; p: number[]; confusion: number[][] };
}
/** Precision, recall and F1 of pairs of texts, and stems of words. */
export interface RougeFile {
  pairs: (Record<"target" | "prediction", string> & Record<"plain" | "stemmed", Record<string, Triple>>)[];
  stems: Record<string, string>;
}

export function isMetricsFile(json: unknown): json is MetricsFile {
  return Array.isArray((json as Partial<MetricsFile> | null)?.hypotheses);
}

export function isRougeFile(json: unknown): json is RougeFile {
  return typeof (json as Partial<RougeFile> | null)?.stems === "object";
}

/** Both sides are float64. */
const near = { atol: 1e-6 };

export async function verifyMetrics(report: Report, prefix: string, file: MetricsFile): Promise<void> {
  const scored = <T extends { add(hypothesis: string, reference: string): void }>(
    metric: T,
    from = 0,
    to?: number,
  ) => {
    for (const [i, text] of file.hypotheses.slice(from, to).entries())
      metric.add(text, file.references[from + i]);
    return metric;
  };
  await report.check(`${prefix}/bleu`, () => {
    const { score, precisions, brevityPenalty } = scored(new Bleu()).value();
    const { sacrebleu: want } = file;
    return compare([score, brevityPenalty, ...precisions], [want.score, want.bp, ...want.precisions], near);
  });
  await report.check(`${prefix}/sentence_bleu`, () => {
    const got = file.hypotheses.map((_, i) => scored(new Bleu(), i, i + 1).value().score);
    return compare(got, file.sentence_bleu, near);
  });
  await report.check(`${prefix}/chrf`, () => compare([scored(new Chrf()).value()], [file.chrf], near));
  await report.check(`${prefix}/ter`, () => compare([scored(new Ter()).value()], [file.ter], near));
  await report.check(`${prefix}/classification`, () => {
    const { y, p, confusion, ...want } = file.classification;
    const metric = new Classification(confusion.map((_, i) => `${i}`));
    for (const [i, actual] of y.entries()) metric.add(actual, p[i]);
    const score = metric.value();
    const value = (name: string) => {
      const [kind, average] = name.split("_");
      return average ? score[average as "macro"][kind as "f1"] : score[kind as "accuracy"];
    };
    return worst([
      compare(metric.confusion.flat(), confusion.flat(), { atol: 0 }, "confusion"),
      ...Object.entries<number>(want).map(([name, number]) => compare([value(name)], [number], near, name)),
    ]);
  });
}

export async function verifyRouge(report: Report, prefix: string, file: RougeFile): Promise<void> {
  for (const kind of ["plain", "stemmed"] as const) {
    await report.check(`${prefix}/${kind}`, () =>
      worst(
        file.pairs.flatMap((pair, i) => {
          const got = rouge(pair.prediction, pair.target, { stemmed: kind === "stemmed" });
          return Object.entries(got).map(([type, { precision, recall, f1 }]) =>
            compare([precision, recall, f1], pair[kind][type], near, `${type} of pair ${i}`),
          );
        }),
      ),
    );
  }
  await report.check(`${prefix}/stems`, () => {
    const wrong = Object.keys(file.stems).find((word) => stem(word) !== file.stems[word]);
    return {
      error: wrong === undefined ? 0 : 1,
      tolerance: 0,
      ...(wrong && { where: `${wrong}: ${stem(wrong)}` }),
    };
  });
}
