import { z } from "zod";
import { readModelConfig } from "../../models/architectures.ts";
import { configError } from "../../models/formats/validation.ts";
import { type LabelKeys, labelNames } from "../../models/labels.ts";
import { labelledData, readTexts, targetsOf } from "../classifier_data.ts";
import { classifierTask, sayBaseline } from "../classifier_task.ts";
import { orderLabels } from "../data/index.ts";
import { encoderRecipe, encoderTokenizerFor, openAdaptedEncoder } from "../encoder_settings.ts";
import { originOf } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { adapter } from "../settings/adapter.ts";
import { runSettings } from "../settings/run.ts";
import type { TextBatch, TextInputs } from "../text_batches.ts";

const { eval: evaluation, ...loop } = runSettings("classify");

const schema = encoderRecipe(labelledData, {
  adapter,
  ...loop,
  eval: evaluation
    .unwrap()
    .extend({
      criterion: z.enum(["macro_f1", "accuracy"]).default("macro_f1").describe("what makes a model the best"),
      baseline: z
        .boolean()
        .default(false)
        .describe("also fit a logistic regression of word counts and say how good it is"),
    })
    .prefault({})
    .describe("how the model is measured"),
});

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
  inputs: ["data.path", "data.validation_path", "data.test_path", "tokenizer.path", "model.init_from"],

  async open(config, context) {
    const { data, eval: measuring, model: settings } = config;
    const { say } = context;
    // A checkpoint has everything that is needed of the model which the run started from, unless it is that of an adapter.
    const checkpoint = config.adapter.kind === "none" ? context.resumeFrom : null;
    const origin = checkpoint ?? (settings.init_from ? await originOf(settings.init_from) : null);
    const known = await labelsIn(origin);
    const texts = await readTexts(data, measuring.patience > 0, say);
    const names = known ? labelNames(known) : orderLabels(texts.train.flatMap(({ labels }) => labels));
    const made = texts.isSeveral ? "multi_label_classification" : "single_label_classification";
    const problemType = known ? (known.problem_type ?? "single_label_classification") : made;
    // Labels that the model does not know are an error before anything is made of the texts.
    targetsOf(texts.train, names, problemType);
    const isSeveral = problemType === "multi_label_classification";
    if (isSeveral && data.class_weights)
      throw configError("data.class_weights is for texts with one label each; leave it out");
    const words = texts.train.map(({ text }) => text);
    const tokenizer = await encoderTokenizerFor(config, origin, words, say);
    const head = { task: "text-classification" as const, labels: names, problemType };
    const { model, added, conclude } = await openAdaptedEncoder(config, tokenizer, head, origin, context);
    const { measure: _m, firstRow, ...task } = await classifierTask(model, tokenizer, texts, config, say);
    if (measuring.baseline && !isSeveral && texts.validation.length + texts.test.length > 0)
      sayBaseline(texts, names, say);
    const { path: _p, validation_path: _v, test_path: _t, format: _f, ...reading } = data;
    return {
      ...task,
      model,
      tokenizer,
      ...(conclude && { conclude: (outDir: string) => conclude(outDir, firstRow()) }),
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
