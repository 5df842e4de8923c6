import { Classification } from "../core/statistics/classification.ts";
import type { Encoder } from "../models/encoder.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { BagOfWords } from "./bag_of_words.ts";
import { type ClassifierData, targetsOf } from "./classifier_data.ts";
import { ClassifierEvaluation, numbers } from "./classifier_evaluation.ts";
import { classWeights, type LabelledText, labelWeights, ShuffledBatches } from "./data/index.ts";
import { encodeTexts } from "./encoder_settings.ts";
import type { Metrics, RecipeContext, Task } from "./recipe.ts";
import type { RunSettings } from "./settings/run.ts";
import { fillRows, type TextBatch, TextBatches, type TextInputs } from "./text_batches.ts";

interface Settings extends Pick<RunSettings, "train" | "out_dir"> {
  data: { class_weights?: boolean | Record<string, number> };
  eval: Pick<RunSettings["eval"], "tokens"> & { criterion: string };
}

type Parts = "batches" | "objective" | "evaluation" | "test";

/** What recipes share that train a text classifier: from its texts to batches and measurements. */
export interface ClassifierTask extends Required<Pick<Task<TextBatch, TextInputs>, Exclude<Parts, "test">>> {
  test: ClassifierEvaluation | undefined;
  /** What the finished model will be measured on: of another model with the same tokenizer and labels. */
  measure(model: Encoder): Promise<Metrics | null>;
  /** A batch of the first row alone. */
  firstRow(): TextInputs;
}

/** The task of a model whose labels are those of the texts. Errors: those of `targetsOf`. */
export async function classifierTask(
  model: Encoder,
  tokenizer: Tokenizer,
  texts: ClassifierData,
  config: Settings,
  say: RecipeContext["say"],
): Promise<ClassifierTask> {
  const { sequence_length: length, batch_size: batchSize, seed } = config.train;
  const { labels } = model;
  const longest = Math.min(length, model.shape.max_position_embeddings);
  const rowsOf = async (side: readonly LabelledText[]) => {
    const targets = targetsOf(side, labels, model.config.problem_type);
    const words = side.map(({ text }) => text);
    const encoded = await encodeTexts(tokenizer, words, longest, say);
    const made = encoded.map((ids, i) => ({ ids, target: targets[i] }));
    return fillRows(made, length, seed);
  };
  const rows = await rowsOf(texts.train);
  const [held, tested] = [await rowsOf(texts.validation), await rowsOf(texts.test)];
  const ids = Int32Array.from(rows.flat(), ({ target }) => target[0]);
  const { class_weights: asked = false } = config.data;
  const balanced = asked === true ? classWeights(ids, labels.length) : null;
  const weights = typeof asked === "object" ? labelWeights(asked, labels) : balanced;
  const mostInRow = [rows, held, tested].flat().reduce((most, row) => Math.max(most, row.length), 0);
  const batches = new TextBatches(model, { length, width: rows[0][0].target.length, mostInRow, weights });
  say(`${rows.length} rows of ${length} tokens hold the training texts`);
  const { criterion, tokens } = config.eval;
  const options = { criterion, tokens, batchSize, length, outDir: config.out_dir, say };
  const last = tested.length > 0 ? tested : held;
  const evaluationOf = (side: typeof held, kind: string) =>
    new ClassifierEvaluation(model, batches, side, { ...options, kind, isLast: side === last });
  return {
    batches: new ShuffledBatches(rows, { batchSize, seed }, batches.collate),
    objective: batches.objective,
    evaluation: evaluationOf(held, "held-out"),
    test: tested.length > 0 ? evaluationOf(tested, "test") : undefined,
    firstRow: () => batches.upload(batches.collate(rows.slice(0, 1))),
    measure: (other) =>
      new ClassifierEvaluation(other, batches, last, { ...options, kind: "", isLast: false }).all(),
  };
}

/** Says how good a logistic regression of word counts is on the same texts. */
export function sayBaseline(
  { train, validation, test }: ClassifierData,
  names: readonly string[],
  say: RecipeContext["say"],
): void {
  const words = (side: readonly LabelledText[]) => side.map(({ text }) => text);
  const ids = (side: readonly LabelledText[]) => targetsOf(side, names, "single_label_classification").flat();
  const last = test.length > 0 ? test : validation;
  const score = new Classification(names);
  const actual = ids(last);
  const fitted = BagOfWords.fit(words(train), ids(train), names.length);
  fitted.predict(words(last)).forEach((each, i) => void score.add(actual[i], each));
  const { accuracy, macro_f1 } = numbers(score);
  say(
    `a bag-of-words logistic regression: accuracy ${accuracy!.toFixed(4)}, macro F1 ${macro_f1!.toFixed(4)}`,
  );
}
