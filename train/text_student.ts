import { CausalLM } from "../models/decoder.ts";
import type { Encoder } from "../models/encoder.ts";
import { configError } from "../models/formats/validation.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Batch, maskTokens, PackedBatches } from "./data/index.ts";
import { openTextData } from "./data/text_data.ts";
import { heldOutText } from "./evaluate.ts";
import {
  countedBatch,
  type DistilBatch,
  type DistilInputs,
  DistilObjective,
  distilMetrics,
  uploadCounted,
} from "./losses/distil.ts";
import { evaluationOfMeans } from "./mean_evaluation.ts";
import { assertLength, type Existing } from "./model_settings.ts";
import type { BatchSource, RecipeContext, Task } from "./recipe.ts";
import type { DistilConfig } from "./settings/distil.ts";
import { tokenizer } from "./settings/text.ts";

/** A student of a decoder or a masked language model, on packed rows of text. */
export async function teachText(
  student: CausalLM | Encoder,
  { model: teacher, hash, tokenizer: own, directory }: Existing<CausalLM | Encoder>,
  config: DistilConfig,
  context: RecipeContext,
): Promise<Task<DistilBatch, DistilInputs>> {
  const { train, distil, data: settings } = config;
  const { more_teachers: _, ...how } = distil;
  const { sequence_length: seqLen, batch_size: batchSize, seed } = train;
  const { test_path, test_fraction, text, label, format, validation_fraction = 0.05, ...plain } = settings;
  const other = Object.entries({ test_path, test_fraction, text, label, format }).find(
    ([, value]) => value !== undefined,
  );
  if (other) throw configError(`data.${other[0]} is for a teacher that classifies texts; leave it out`);
  assertLength(teacher, seqLen);
  const reads = {
    ...config,
    data: { ...plain, validation_fraction },
    tokenizer: tokenizer.parse({ path: directory }),
  };
  const source = await openTextData(reads, teacher.shape.max_position_embeddings, context);
  const prepare = preparation(teacher, own, config);
  const rows = new PackedBatches(source.train.shard, source.train.documents, { batchSize, seqLen, seed });
  const held = heldOutText(source.validation.shard, source.validation.documents, seqLen);
  const masked = !(teacher instanceof CausalLM);
  const objective = new DistilObjective(student, teacher, distil, masked ? distil.mask_share : 1);
  const upload = (batch: DistilBatch) => uploadCounted(batch, seqLen);
  const { path: _p, validation_path: _v, corpus: _c, ...reading } = reads.data;
  return {
    model: student,
    tokenizer: own,
    batches: changed(rows, prepare),
    objective: { upload, loss: (inputs: DistilInputs) => objective.loss(inputs) },
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
      ...{ data: { content: source.hash, ...reading }, model: student.config, teacher: hash, distil: how },
      tokenizer: own.hash(),
    },
    close: source.close,
  };
}

/** What the models read of packed rows: for a decoder all, for a masked LM some of it masked. */
function preparation(teacher: CausalLM | Encoder, { maskId }: Tokenizer, { train, distil }: DistilConfig) {
  const { seed, sequence_length: seqLen } = train;
  if (teacher instanceof CausalLM) return (batch: Batch) => countedBatch(batch);
  if (maskId === null) throw configError("the teacher's tokenizer has no mask token: name another");
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
