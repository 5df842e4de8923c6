import { z } from "zod";
import { readModelConfig } from "../../models/architectures.ts";
import { configError } from "../../models/formats/validation.ts";
import { type LabelKeys, labelNames } from "../../models/labels.ts";
import { labelledData, readTexts, targetsOf } from "../classifier_data.ts";
import { ClassifierEvaluation, sayBaseline } from "../classifier_evaluation.ts";
import { classWeights, type LabelledText, orderLabels, ShuffledBatches } from "../data/index.ts";
import {
  checkEncoder,
  encoder,
  encoderTokenizer,
  encoderTokenizerFor,
  encodeTexts,
  openAdaptedEncoder,
  withEncoderDefaults,
} from "../encoder_settings.ts";
import { originOf } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { adapter } from "../settings/adapter.ts";
import { checkTrain, runSettings } from "../settings/run.ts";
import { fillRows, type TextBatch, TextBatches, type TextInputs } from "../text_batches.ts";

const { eval: evaluation, ...loop } = runSettings("classify");

const schema = z.preprocess(
  withEncoderDefaults,
  z
    .strictObject({
      data: labelledData,
      model: encoder,
      tokenizer: encoderTokenizer,
      adapter,
      ...loop,
      eval: evaluation
        .unwrap()
        .extend({
          criterion: z
            .enum(["macro_f1", "accuracy"])
            .default("macro_f1")
            .describe("what makes a model the best"),
          baseline: z
            .boolean()
            .default(false)
            .describe("also fit a logistic regression of word counts and say how good it is"),
        })
        .prefault({})
        .describe("how the model is measured"),
    })
    .superRefine((config, context) => {
      checkTrain(config, context);
      checkEncoder(config, context);
    }),
);

export type ClassifyConfig = z.output<typeof schema>;

/** The labels that a model has a head for, and how it learned them; null of a model without such a head. */
async function labelsIn(origin: string | null): Promise<Pick<LabelKeys, "id2label" | "problem_type"> | null> {
  const config = origin && (await readModelConfig(origin));
  return config && "id2label" in config && /ForSequence/.test(config.architectures[0]) ? config : null;
}

/** Trains a text classifier: an encoder from scratch or one to start from, whose labels stay what they are. */
export const recipe: Recipe<ClassifyConfig, TextBatch, TextInputs> = {
  name: "classify",
  schema,
  inputs: ["data.path", "data.validation_path", "tokenizer.path", "model.init_from"],

  async open(config, context) {
    const { data, train, eval: measuring, model: settings } = config;
    const { say } = context;
    // A checkpoint has everything that is needed of the model which the run started from, unless it is that of an adapter.
    const checkpoint = config.adapter.kind === "none" ? context.resumeFrom : null;
    const origin = checkpoint ?? (settings.init_from ? await originOf(settings.init_from) : null);
    const known = await labelsIn(origin);
    const texts = await readTexts(data, say);
    const names = known ? labelNames(known) : orderLabels(texts.train.flatMap(({ labels }) => labels));
    const made = texts.isSeveral ? "multi_label_classification" : "single_label_classification";
    const problem_type = known ? (known.problem_type ?? "single_label_classification") : made;
    const targets = (split: LabelledText[]) => targetsOf(split, names, problem_type);
    const [training, held] = [targets(texts.train), targets(texts.validation)];
    const isSeveral = problem_type === "multi_label_classification";
    if (isSeveral && data.class_weights)
      throw configError("data.class_weights is for texts with one label each; leave it out");
    const words = texts.train.map(({ text }) => text);
    const tokenizer = await encoderTokenizerFor(config, origin, words, say);
    const head = { task: "text-classification" as const, labels: names, problemType: problem_type };
    const { model, added, conclude } = await openAdaptedEncoder(config, tokenizer, head, origin, context);

    const { sequence_length: length, batch_size: batchSize, seed } = train;
    const longest = Math.min(length, model.shape.max_position_embeddings);
    const rowsOf = async (split: LabelledText[], target: number[][]) => {
      const ids = await encodeTexts(
        tokenizer,
        split.map(({ text }) => text),
        longest,
        say,
      );
      return fillRows(
        ids.map((own, i) => ({ ids: own, target: target[i] })),
        length,
        seed,
      );
    };
    const [rows, heldRows] = [await rowsOf(texts.train, training), await rowsOf(texts.validation, held)];
    const weights = data.class_weights ? classWeights(Int32Array.from(training.flat()), names.length) : null;
    const mostInRow = [...rows, ...heldRows].reduce((most, row) => Math.max(most, row.length), 0);
    const batches = new TextBatches(model, { length, width: training[0].length, mostInRow, weights });
    if (measuring.baseline && !isSeveral && held.length > 0) sayBaseline(texts, [training, held], names, say);
    say(`${rows.length} rows of ${length} tokens hold the training texts`);
    const { path: _p, validation_path: _v, format: _f, ...reading } = data;
    return {
      model,
      tokenizer,
      batches: new ShuffledBatches(rows, { batchSize, seed }, batches.collate),
      objective: batches.objective,
      evaluation: new ClassifierEvaluation(model, batches, heldRows, {
        ...{ criterion: measuring.criterion, tokens: measuring.tokens, batchSize, length },
        ...{ outDir: config.out_dir, say },
      }),
      ...(conclude && {
        conclude: (outDir: string) => conclude(outDir, batches.upload(batches.collate(rows.slice(0, 1)))),
      }),
      decisive: {
        ...added,
        data: { content: texts.hash, ...reading },
        model: { ...settings, init_from: undefined, config: model.config },
        tokenizer: tokenizer.hash(),
      },
      close() {},
    };
  },
};
