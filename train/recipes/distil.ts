import { z } from "zod";
import { architectures, createModel, modelTypeOf, parseModelConfig } from "../../models/architectures.ts";
import { CausalLM } from "../../models/decoder.ts";
import { Encoder } from "../../models/encoder.ts";
import { configError } from "../../models/formats/validation.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { type Batch, maskTokens, PackedBatches } from "../data/index.ts";
import { assertOutside, openTextData } from "../data/text_data.ts";
import { heldOutText } from "../evaluate.ts";
import {
  countedBatch,
  type DistilBatch,
  type DistilInputs,
  DistilObjective,
  distilMetrics,
  uploadCounted,
} from "../losses/distil.ts";
import { evaluationOfMeans } from "../mean_evaluation.ts";
import { assertLength, openExisting } from "../model_settings.ts";
import type { BatchSource, Recipe } from "../recipe.ts";
import { count, positive, share } from "../settings/numbers.ts";
import { checkTrain, runSettings } from "../settings/run.ts";
import { data, tokenizer } from "../settings/text.ts";

const weight = z.number().min(0);

const schema = z
  .strictObject({
    data,
    model: z.strictObject({
      init_from: z
        .string()
        .describe(
          "the teacher: a model folder or run of a decoder or masked LM; relative to the config file",
        ),
      num_hidden_layers: count.optional().describe("layers of the student; by default half of the teacher's"),
    }),
    distil: z
      .strictObject({
        temperature: positive.default(2).describe("divides the logits of both models"),
        divergence: z
          .enum(["forward", "reverse"])
          .default("forward")
          .describe(
            "KL(teacher || student), or reverse: the student leaves out what the teacher rarely says",
          ),
        soft_weight: weight.default(5).describe("what the divergence counts"),
        hard_weight: weight.default(2).describe("what the student's own loss counts"),
        hidden_weight: weight.default(1).describe("what 1 - cos of the last hidden states counts"),
        mask_share: share.gt(0).default(0.15).describe("share of the tokens that a masked LM has to find"),
      })
      .prefault({}),
    ...runSettings("distil"),
  })
  .superRefine(checkTrain);

type DistilConfig = z.output<typeof schema>;

/** Trains a student with fewer layers, which start as some of the teacher's, to say what the teacher says (DistilBERT). */
export const recipe: Recipe<DistilConfig, DistilBatch, DistilInputs> = {
  name: "distil",
  schema,
  inputs: ["model.init_from", "data.path", "data.validation_path"],

  check: ({ out_dir, data: { path, validation_path } }) => assertOutside(out_dir, path, validation_path),

  async open(config, context) {
    const { train, distil, model: settings } = config;
    const { sequence_length: seqLen, batch_size: batchSize, seed } = train;
    const { model: teacher, hash, ...own } = await openExisting(settings.init_from);
    if (!(teacher instanceof CausalLM) && !(teacher instanceof Encoder && teacher.task === "fill-mask"))
      throw configError(
        `${settings.init_from} is a ${teacher.toHfConfig().architectures}; a teacher is a decoder or a masked LM`,
      );
    assertLength(teacher, seqLen);
    const student = await studentOf(teacher, settings.num_hidden_layers);
    for (const model of [teacher, student]) model.computeIn(train.compute_dtype);
    const layers = [student, teacher].map(({ shape }) => shape.num_hidden_layers);
    context.say(`student: ${layers[0]} of the ${layers[1]} layers of ${settings.init_from}`);
    const text = { ...config, tokenizer: tokenizer.parse({ path: own.directory }) };
    const source = await openTextData(text, teacher.shape.max_position_embeddings, context);
    const prepare = preparation(teacher, own.tokenizer, config);
    const rows = new PackedBatches(source.train.shard, source.train.documents, { batchSize, seqLen, seed });
    const held = heldOutText(source.validation.shard, source.validation.documents, seqLen);
    const masked = !(teacher instanceof CausalLM);
    const objective = new DistilObjective(student, teacher, distil, masked ? distil.mask_share : 1);
    const upload = (batch: DistilBatch) => uploadCounted(batch, seqLen);
    const { path: _p, validation_path: _v, corpus: _c, ...reading } = config.data;
    return {
      model: student,
      tokenizer: own.tokenizer,
      batches: changed(rows, prepare),
      objective: { upload, loss: (inputs) => objective.loss(inputs) },
      evaluation: evaluationOfMeans(
        { names: distilMetrics, upload, sums: (inputs: DistilInputs) => objective.metrics(inputs) },
        {
          ...held,
          *batches(options) {
            let first = 0;
            for (const batch of held.batches(options)) yield prepare(batch, options.batchSize * first++);
          },
        },
        { batchSize, tokens: config.eval.tokens, size: `${held.rows * seqLen} held-out tokens` },
      ),
      decisive: {
        ...{ data: { content: source.hash, ...reading }, model: student.config, teacher: hash, distil },
        tokenizer: own.tokenizer.hash(),
      },
      close: source.close,
    };
  },
};

/** A model with fewer layers, spread evenly from the teacher's first to its last: 0, 2, 4, 7, 9, 11 of 12, as DistilBERT. */
export async function studentOf<M extends CausalLM | Encoder>(teacher: M, asked?: number): Promise<M> {
  const { num_hidden_layers: all } = teacher.shape;
  const layers = asked ?? Math.ceil(all / 2);
  if (layers > all) throw configError(`model.num_hidden_layers is ${layers}; the teacher has ${all}`);
  const { overrides } = architectures[modelTypeOf(teacher.config)];
  const config = { ...teacher.toHfConfig(), ...overrides({ num_hidden_layers: layers }) };
  const student = createModel(parseModelConfig(config, "the student")) as M;
  const taken = (layer: number) => (layers === 1 ? 0 : Math.round((layer * (all - 1)) / (layers - 1)));
  const from = teacher.namedParameters();
  for (const [name, parameter] of student.namedParameters()) {
    const origin = name.replace(/\.(h|layers?)\.(\d+)\./, (_, kind, n) => `.${kind}.${taken(Number(n))}.`);
    parameter.write(await from.get(origin)!.data());
  }
  return student;
}

/** What the models read of packed rows: for a decoder all, for a masked LM some of it masked. */
function preparation(teacher: CausalLM | Encoder, { maskId }: Tokenizer, { train, distil }: DistilConfig) {
  const { seed, sequence_length: seqLen } = train;
  if (teacher instanceof CausalLM) return (batch: Batch) => countedBatch(batch);
  if (maskId === null) throw configError("the teacher's tokenizer has no mask token");
  const options = { seed, share: distil.mask_share, maskId, vocabSize: teacher.shape.vocab_size };
  return (batch: Batch, row: number) => countedBatch(batch, maskTokens(batch, row, seqLen, options));
}

/** The batches of a source, changed: `change` is told the number of a batch's first row, counted through all epochs. */
const changed = <A, B>(source: BatchSource<A>, change: (batch: A, row: number) => B): BatchSource<B> => ({
  rowsPerEpoch: source.rowsPerEpoch,
  state: () => source.state(),
  restore: (cursor) => source.restore(cursor),
  next() {
    const { epoch, index } = source.state();
    return change(source.next(), epoch * source.rowsPerEpoch + index);
  },
});
