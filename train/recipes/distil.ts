import { CausalLM } from "../../models/decoder.ts";
import { Encoder } from "../../models/encoder.ts";
import { configError } from "../../models/formats/validation.ts";
import { readTexts } from "../classifier_data.ts";
import { classifierTask } from "../classifier_task.ts";
import { assertOutside } from "../data/text_data.ts";
import { ClassifierDistilObjective } from "../losses/distil.ts";
import { type Existing, openExisting } from "../model_settings.ts";
import type { HostBatch, Recipe, RecipeContext, Task } from "../recipe.ts";
import { type DistilConfig, schema } from "../settings/distil.ts";
import { studentOf } from "../student.ts";
import type { TextBatch, TextInputs } from "../text_batches.ts";
import { teachText } from "../text_student.ts";

/** Trains a student with fewer layers, which start as some of the teacher's, to say what the teacher says (DistilBERT). */
export const recipe: Recipe<DistilConfig, HostBatch, object> = {
  name: "distil",
  schema,
  inputs: ["model.init_from", "data.path", "data.validation_path", "data.test_path"],

  check: ({ out_dir, data: { path, validation_path } }) => assertOutside(out_dir, path, validation_path),

  async open(config, context) {
    const { train, model: settings } = config;
    const existing = await openExisting(settings.init_from);
    const { model } = existing;
    const isClassifier = model instanceof Encoder && model.task === "text-classification";
    if (
      !isClassifier &&
      !(model instanceof CausalLM) &&
      !(model instanceof Encoder && model.task === "fill-mask")
    )
      throw configError(
        `${settings.init_from} is a ${model.toHfConfig().architectures}; a teacher is a decoder, a masked LM or a text classifier`,
      );
    const teacher = existing as Existing<CausalLM | Encoder>;
    const student = await studentOf(teacher.model, settings.num_hidden_layers);
    for (const each of [teacher.model, student]) each.computeIn(train.compute_dtype);
    const layers = [student, teacher.model].map(({ shape }) => shape.num_hidden_layers);
    context.say(`student: ${layers[0]} of the ${layers[1]} layers of ${settings.init_from}`);
    const taught = isClassifier
      ? await teachClassifier(student as Encoder, teacher as Existing<Encoder>, config, context)
      : await teachText(student, teacher, config, context);
    return taught as unknown as Task<HostBatch, object>;
  },
};

/** A student of a text classifier, on labelled texts; says how good the teacher is on what the student is measured on. */
async function teachClassifier(
  student: Encoder,
  { model: teacher, hash, tokenizer }: Existing<Encoder>,
  config: DistilConfig,
  { say }: RecipeContext,
): Promise<Task<TextBatch, TextInputs>> {
  const { distil, eval: measuring } = config;
  const { corpus: _c, field: _f, separator: _s, parse_special_tokens: _p, ...settings } = config.data;
  const data = {
    class_weights: false,
    ...settings,
    validation_fraction: settings.validation_fraction ?? 0.1,
  };
  const texts = await readTexts(data, measuring.patience > 0, say);
  const own = { ...config, data, eval: { ...measuring, criterion: "macro_f1" } };
  const { measure, ...task } = await classifierTask(student, tokenizer, texts, own, say);
  const found = await measure(teacher);
  if (found)
    say(`the teacher: accuracy ${found.accuracy!.toFixed(4)}, macro F1 ${found.macro_f1!.toFixed(4)}`);
  const objective = new ClassifierDistilObjective(student, teacher, distil);
  const { path: _d, validation_path: _v, test_path: _t, format: _o, ...reading } = data;
  return {
    ...task,
    objective: { ...task.objective, loss: (inputs) => objective.loss(inputs) },
    model: student,
    tokenizer,
    decisive: {
      ...{ data: { content: texts.hash, ...reading }, model: student.config, teacher: hash, distil },
      tokenizer: tokenizer.hash(),
    },
    close() {},
  };
}
