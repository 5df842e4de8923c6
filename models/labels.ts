import { z } from "zod";
import { refusal } from "./config.ts";
import { parseWith } from "./formats/validation.ts";

/** What a model that reads whole texts answers, in the words of pipelines, and how transformers ends its class's name. */
const suffixes = {
  "feature-extraction": "Model",
  "text-classification": "ForSequenceClassification",
  "token-classification": "ForTokenClassification",
  "fill-mask": "ForMaskedLM",
  "question-answering": "ForQuestionAnswering",
} as const;
export type Task = keyof typeof suffixes;
export const tasks = Object.keys(suffixes) as Task[];

export const problemTypes = [
  "single_label_classification",
  "multi_label_classification",
  "regression",
] as const;

/** The keys of config.json that say which head a model has and what its labels are called. */
export interface LabelKeys {
  /** The class in transformers. */
  architectures: [string];
  /** Names of labels by number: where the head has labels, all of them. */
  id2label?: Record<string, string>;
  label2id?: Record<string, number>;
  /** How labels are learned; absent: one of several, or a number where there is one label. */
  problem_type?: (typeof problemTypes)[number];
}

const schema = z.object({
  architectures: z.array(z.string()).min(1).optional(),
  id2label: z.record(z.string(), z.string()).nullish(),
  label2id: z.record(z.string(), z.int()).nullish(),
  num_labels: z
    .int()
    .min(1)
    .max(2 ** 20)
    .nullish(),
  problem_type: z.enum(problemTypes).nullish(),
});

/** The task of a config's class. */
export function taskOf({ architectures: [name] }: Pick<LabelKeys, "architectures">): Task {
  return tasks.find((task) => name.endsWith(suffixes[task])) ?? "feature-extraction";
}

/** The class in transformers for a task: `BertForMaskedLM`. */
export const classFor = (prefix: string, task: Task) => `${prefix}${suffixes[task]}`;

/** The labels of a model, in the order of their numbers. */
export const labelNames = ({ id2label = {} }: Pick<LabelKeys, "id2label">): string[] =>
  Object.values(id2label);

/** The keys for labels in this order. */
export const labelled = (names: readonly string[]): Required<Pick<LabelKeys, "id2label" | "label2id">> => ({
  id2label: Object.fromEntries(names.map((name, i) => [i, name])),
  label2id: Object.fromEntries(names.map((name, i) => [name, i])),
});

/**
 * From the content of a config.json the class, which must be one that `prefix` has (without a name: the model without a
 * head), and its labels. A file without names has `num_labels` of them, two by default, called LABEL_0, LABEL_1 as in
 * transformers. Throws a one-line KilnError.
 */
export function parseLabels(value: unknown, prefix: string, source: string): LabelKeys {
  const file = parseWith(schema, value, () => source);
  const refuse = refusal(source);
  const known: string[] = tasks.map((task) => classFor(prefix, task));
  const [named] = file.architectures ?? known;
  if (!known.includes(named))
    throw refuse(`architectures is ${JSON.stringify(file.architectures)}; kiln has ${known.join(", ")}`);
  const { id2label, label2id, num_labels, problem_type } = file;
  const architectures: [string] = [named];
  if (!id2label && !/ForSequence|ForToken/.test(named)) return { architectures };
  const ids = id2label ? Object.keys(id2label) : Array.from({ length: num_labels ?? 2 }, (_, i) => `${i}`);
  const names = ids.map((_, i) => {
    const name = id2label ? id2label[i] : `LABEL_${i}`;
    if (name === undefined)
      throw refuse(
        `id2label has no label ${i} among its ${ids.length}; numbers must run from 0 without a gap`,
      );
    const number = label2id?.[name] ?? i;
    if (number !== i)
      throw refuse(
        `label2id says that ${JSON.stringify(name)} is ${number}, id2label says ${i}; correct one`,
      );
    return name;
  });
  if (new Set(names).size < names.length) throw refuse("id2label gives two numbers the same label");
  return { architectures, ...labelled(names), ...(problem_type && { problem_type }) };
}
