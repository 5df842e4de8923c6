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
  inputs: ["model.init_from", "distil.more_teachers", "data.path", "data.validation_path", "data.test_path"],

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
    if (config.distil.more_teachers.length > 0 && !isClassifier)
      throw configError("distil.more_teachers is for text classifiers; name one teacher alone");
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

/** The other teachers of a classifier. @throws KilnError of one that reads other tokens, or knows other labels, than the first. */
async function moreTeachers(
  first: Existing<Encoder>,
  { distil, train }: DistilConfig,
): Promise<Existing<Encoder>[]> {
  const opened: Existing<Encoder>[] = [];
  for (const path of distil.more_teachers) {
    const other = (await openExisting(path)) as Existing<Encoder>;
    const known = (model: Encoder) => JSON.stringify([model.labels, model.config.problem_type]);
    const isClassifier = other.model instanceof Encoder && other.model.task === "text-classification";
    if (!isClassifier || known(other.model) !== known(first.model))
      throw configError(
        `distil.more_teachers: ${path} is no classifier of the first teacher's labels in their order`,
      );
    if (other.tokenizer.hash() !== first.tokenizer.hash())
      throw configError(
        `distil.more_teachers: ${path} reads other tokens than the first teacher; train them with one tokenizer (--tokenizer)`,
      );
    other.model.computeIn(train.compute_dtype);
    opened.push(other);
  }
  return opened;
}

/** A student of a text classifier, on labelled texts; says how good each teacher is on what the student is measured on. */
async function teachClassifier(
  student: Encoder,
  first: Existing<Encoder>,
  config: DistilConfig,
  { say }: RecipeContext,
): Promise<Task<TextBatch, TextInputs>> {
  const { tokenizer } = first;
  const teachers = [first, ...(await moreTeachers(first, config))];
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
  for (const [i, { model }] of teachers.entries()) {
    const found = await measure(model);
    const which = teachers.length > 1 ? `teacher ${i + 1}` : "the teacher";
    if (found)
      say(`${which}: accuracy ${found.accuracy!.toFixed(4)}, macro F1 ${found.macro_f1!.toFixed(4)}`);
  }
  const models = teachers.map(({ model }) => model);
  const objective = new ClassifierDistilObjective(student, models, distil);
  const { more_teachers, ...how } = distil;
  const [teacher, ...more] = teachers.map(({ hash }) => hash);
  const { path: _d, validation_path: _v, test_path: _t, format: _o, ...reading } = data;
  return {
    ...task,
    objective: { ...task.objective, loss: (inputs) => objective.loss(inputs) },
    model: student,
    tokenizer,
    decisive: {
      ...{ data: { content: texts.hash, ...reading }, model: student.config, teacher, distil: how },
      ...(more.length > 0 && { more_teachers: more }),
      tokenizer: tokenizer.hash(),
    },
    close() {},
  };
}
