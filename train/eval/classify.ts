import { KilnError } from "../../core/errors.ts";
import {
  Classification,
  type ClassScore,
  MultiLabelClassification,
} from "../../core/statistics/classification.ts";
import type { AnyModel } from "../../models/architectures.ts";
import { Encoder } from "../../models/encoder.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import { type LabelScore, pipeline } from "../../models/pipeline.ts";
import { type LabelledOptions, type LabelledText, labelIds, readLabelled } from "../data/index.ts";
import { confusionSvg } from "../metrics/confusion.ts";
import { wilsonInterval } from "../metrics/significance.ts";
import { type EvaluationReport, type ReportTable, valueTable } from "../report/evaluation.ts";
import { reliabilitySvg } from "../report/reliability.ts";
import { SpeedMeter } from "./speed.ts";

export interface ClassifyFlags extends LabelledOptions {
  data: string[];
  speed?: boolean;
}

/** A text with its labels by number and the probability of each label; `index` counts the rows of the data. */
export interface ClassifiedText {
  index: number;
  actual: number[];
  probabilities: number[];
}

type Classifier = Pick<LoadedModel<AnyModel>, "model" | "tokenizer">;

/** Texts that are classified together. */
const batchSize = 256;

const isMultiLabel = ({ config }: Encoder) => config.problem_type === "multi_label_classification";

/** The model as a classifier. Throws a KilnError where it is none. */
function classifierOf({ model }: Classifier, name: string): Encoder {
  if (model instanceof Encoder && model.task === "text-classification" && model.labels.length > 1)
    return model;
  const { architectures: [kind] = [] } = model.toHfConfig() as { architectures?: string[] };
  throw new KilnError(
    `${name} is a ${kind} without labels to choose from; train one with kiln train classify`,
    { code: "task_unknown" },
  );
}

/**
 * The probabilities of the model's labels for each text. Texts that do not fit into the model's context are left out and
 * reported. Errors: labels that the model does not know, all of them named; what `readLabelled` refuses.
 */
export async function* classifyTexts(
  loaded: Classifier,
  name: string,
  { data, ...options }: ClassifyFlags,
  leaveOut: (what: string) => void,
  meter?: SpeedMeter,
): AsyncGenerator<ClassifiedText> {
  const model = classifierOf(loaded, name);
  const found = new Set<string>();
  for await (const { labels, where } of readLabelled(data, options)) {
    if (labels.length !== 1 && !isMultiLabel(model))
      throw new KilnError(`${where} has ${labels.length} labels; ${name} chooses one`, {
        code: "labels_several",
      });
    for (const label of labels) found.add(label);
  }
  labelIds([...found], model.labels);
  const classify = await pipeline("text-classification", loaded);
  const longest = model.shape.max_position_embeddings;
  let index = 0;
  let batch: LabelledText[] = [];
  const flush = async () => {
    const encodings = await loaded.tokenizer.encodeTexts(batch.map(({ text }) => text));
    const rows = batch.map((row, i) => ({ ...row, index: index + i, size: encodings[i].ids.length }));
    const read = rows.filter(({ size }) => size <= longest);
    for (let i = read.length; i < rows.length; i++) leaveOut("texts longer than the model's context");
    index += batch.length;
    batch = [];
    if (read.length === 0) return [];
    const begin = performance.now();
    const scores = await classify(
      read.map(({ text }) => text),
      { top_k: null },
    );
    const tokens = read.reduce((sum, { size }) => sum + size, 0);
    meter?.add(tokens, performance.now() - begin, () => classify(read[0].text));
    return read.map((row, i) => {
      const byLabel = new Map((scores[i] as LabelScore[]).map(({ label, score }) => [label, score]));
      const probabilities = model.labels.map((label) => byLabel.get(label)!);
      return { index: row.index, actual: [...labelIds(row.labels, model.labels)], probabilities };
    });
  };
  for await (const row of readLabelled(data, options, leaveOut)) {
    batch.push(row);
    if (batch.length === batchSize) yield* await flush();
  }
  if (batch.length > 0) yield* await flush();
}

/** Accuracy, F1 scores and calibration of a classifier on labelled texts. */
export async function evaluateClassify(
  loaded: Classifier,
  name: string,
  flags: ClassifyFlags,
): Promise<EvaluationReport> {
  const model = classifierOf(loaded, name);
  const leftOut: Record<string, number> = {};
  const meter = new SpeedMeter();
  const single = new Classification(model.labels);
  const multi = new MultiLabelClassification(model.labels);
  const texts = classifyTexts(
    loaded,
    name,
    flags,
    (what) => {
      leftOut[what] = (leftOut[what] ?? 0) + 1;
    },
    meter,
  );
  for await (const { actual, probabilities } of texts)
    if (isMultiLabel(model))
      multi.add(
        model.labels.map((_, i) => (actual.includes(i) ? 1 : 0)),
        probabilities,
      );
    else single.add(actual[0], probabilities);
  const speed = flags.speed ? await meter.value(model) : undefined;
  const values = {
    task: "classify",
    model: name,
    data: flags.data,
    left_out: leftOut,
    ...(speed && { speed }),
  };
  const counts = { ...leftOut, ...speed };
  const report = isMultiLabel(model) ? multiLabelReport(multi) : singleLabelReport(single);
  return {
    ...report,
    title: `Classification by ${name}`,
    values: { ...values, ...report.values },
    tables: [...report.tables, ...(Object.keys(counts).length > 0 ? [valueTable(counts)] : [])],
  };
}

const labelTable = (perClass: readonly ClassScore[]): ReportTable => ({
  head: ["label", "F1", "precision", "recall", "texts"],
  rows: perClass.map(({ label, f1, precision, recall, support }) => [label, f1, precision, recall, support]),
});

function multiLabelReport(sums: MultiLabelClassification): EvaluationReport {
  const { macro, weighted, micro, samples, perClass, count, ...found } = sums.value();
  const scores = {
    subset_accuracy: found.subsetAccuracy,
    hamming_loss: found.hammingLoss,
    ...{ macro_f1: macro.f1, weighted_f1: weighted.f1, micro_f1: micro.f1, samples_f1: samples.f1 },
    texts: count,
  };
  const values = { ...scores, labels: sums.labels, per_class: perClass };
  const notes = ["A label is predicted where its probability is 0.5 or more."];
  return { title: "", values, tables: [valueTable(scores), labelTable(perClass)], notes };
}

function singleLabelReport(sums: Classification): EvaluationReport {
  const { labels, confusion, calibration } = sums;
  const { accuracy, mcc, ece, macro, weighted, perClass, count } = sums.value();
  const scores = { accuracy, macro_f1: macro.f1, weighted_f1: weighted.f1, mcc, ece, texts: count };
  const [low, high] = wilsonInterval(Math.round(accuracy * count), count).map((x) => x.toFixed(4));
  return {
    title: "",
    values: { ...scores, labels, per_class: perClass, confusion },
    tables: [
      valueTable(scores),
      labelTable(perClass),
      { head: ["true \\ predicted", ...labels], rows: confusion.map((row, i) => [labels[i], ...row]) },
    ],
    notes: [
      `The accuracy's 95% interval is ${low} to ${high} (Wilson). ece is the calibration error in ${calibration.length} bins.`,
    ],
    figures: [
      { title: "Confusion matrix", svg: confusionSvg({ labels, confusion }) },
      { title: "Reliability diagram", svg: reliabilitySvg(calibration) },
    ],
  };
}
