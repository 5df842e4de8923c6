import { z } from "zod";
import { KilnError } from "../../core/errors.ts";
import { configError } from "../../models/formats/validation.ts";
import type { ChatTemplate } from "../../tokenizer/index.ts";
import { concludeAdapter, firstLogits } from "../adapters.ts";
import { openChatModel } from "../chat_model.ts";
import {
  type Batch,
  pairBatch,
  pairBatches,
  readPairs,
  ShuffledBatches,
  splitExamples,
} from "../data/index.ts";
import { assertOutside } from "../data/text_data.ts";
import { PreferenceObjective, pairMetrics, preferenceLossNames } from "../losses/preference.ts";
import { evaluationOfMeans } from "../mean_evaluation.ts";
import { weightsHash } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { adapter } from "../settings/adapter.ts";
import { data as chats, filesOf, model } from "../settings/chat.ts";
import { count, positive } from "../settings/numbers.ts";
import { checkTrain, runSettings } from "../settings/run.ts";
import { uploadTokens } from "../trainer.ts";

const { train, ...loop } = runSettings("preference");
const amount = z.number().min(0);

const schema = z
  .strictObject({
    model,
    data: chats
      .unwrap()
      .omit({ packing: true, min_updates: true })
      .extend({
        path: filesOf("pairs").describe(
          "pairs: JSONL, JSON, CSV or Parquet with chosen, rejected and a prompt",
        ),
      }),
    adapter,
    preference: z
      .strictObject({
        loss: z
          .enum(preferenceLossNames)
          .default("sigmoid")
          .describe("DPO, the same on means over tokens (long replies gain nothing), or IPO"),
        beta: positive.default(0.1).describe("how closely the model is held to the reference"),
        label_smoothing: amount
          .lt(0.5)
          .default(0)
          .describe("share of the pairs in the wrong order; not for ipo"),
        sft_weight: amount
          .default(0)
          .describe("adds so much of the chosen reply's own loss, where both rewards fall"),
      })
      .prefault({}),
    ...loop,
    train: train
      .unwrap()
      .extend({
        batch_size: count.default(8).describe("pairs of one forward pass"),
        learning_rate: positive.default(1e-6).describe("the highest rate"),
      })
      .prefault({}),
  })
  .superRefine(checkTrain)
  .refine(({ preference: { loss, label_smoothing } }) => loss !== "ipo" || label_smoothing === 0, {
    path: ["preference", "label_smoothing"],
    message: "is not for ipo",
  });

type PreferenceConfig = z.output<typeof schema>;

/** Trains a chat model to prefer one reply to another (DPO, IPO), held to what it was before. */
export const recipe: Recipe<PreferenceConfig, Batch> = {
  name: "preference",
  schema,
  inputs: ["model.init_from", "data.path", "data.validation_path"],

  check: ({ out_dir, data: { path, validation_path } }) => assertOutside(out_dir, path, validation_path),

  async open(config, context) {
    const { train, preference, model: settings } = config;
    const { sequence_length: seqLen, batch_size: batchSize, seed } = train;
    const { say } = context;
    const { model, tokenizer, template, own, added, reopen } = await openChatModel(config, context);
    if (own.chatTemplate === null && !settings.plain_turns) {
      throw configError(
        `${settings.init_from} has no chat template: it cannot answer yet; teach it with kiln train sft first`,
      );
    }
    // Beside an adapter it is the model without that.
    const reference = added ? null : (await reopen()).computeIn(train.compute_dtype);
    say(`reference: ${settings.init_from}${added ? ", the model without the adapter" : ""}`);
    const { training, held, content } = await openPairs(config, template, say);
    const objective = new PreferenceObjective(model, reference, preference);
    const upload = (batch: Batch) => uploadTokens(batch, seqLen);
    return {
      model,
      tokenizer,
      batches: new ShuffledBatches(training, { batchSize, seed }, (chosen) => pairBatch(chosen, seqLen)),
      objective: { upload, loss: (inputs) => objective.loss(inputs) },
      evaluation: evaluationOfMeans(
        { names: pairMetrics, upload, sums: (inputs) => objective.metrics(inputs) },
        {
          rows: held.length,
          seqLen: 2 * seqLen,
          batches: (options) => pairBatches(held, { ...options, seqLen }),
        },
        { batchSize, tokens: config.eval.tokens, size: `${held.length} held-out pairs` },
      ),
      ...(added && {
        conclude: (outDir: string) => {
          const logits = firstLogits(pairBatch(training.slice(0, 1), seqLen));
          return concludeAdapter(model, tokenizer, { outDir, logits, reopen, say });
        },
      }),
      decisive: {
        data: content,
        model: model.config,
        reference: added?.base ?? (await weightsHash(reference!)),
        tokenizer: tokenizer.hash(),
        preference,
        ...added,
      },
      close() {},
    };
  },
};

/** Pairs to learn from and to be measured on. Says how many there are, and what was left out. */
async function openPairs(
  { data, train }: PreferenceConfig,
  template: ChatTemplate,
  say: (line: string) => void,
) {
  const read = async (files: readonly string[]) => {
    const { pairs, tooLong, equal, hash } = await readPairs(files, template, train.sequence_length);
    const left = `${tooLong} with more than train.sequence_length ${train.sequence_length} tokens, ${equal} with equal replies`;
    if (pairs.length === 0) {
      const remedy = tooLong > 0 ? "raise --sequence-length as far as the model reads" : "give other data";
      throw new KilnError(`${files.join(", ")}: no pair is left: ${left}; ${remedy}`, {
        code: "corpus_empty",
      });
    }
    if (tooLong + equal > 0) say(`left out of ${files.join(", ")}: ${left}`);
    return { examples: pairs, hash };
  };
  const split = await splitExamples(data, read);
  say(`training data: ${split.training.length} pairs; validation data: ${split.held.length}`);
  return split;
}
