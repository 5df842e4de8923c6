import { z } from "zod";
import { KilnError } from "../../core/errors.ts";
import { decoderConfig } from "../../models/architectures.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { configError } from "../../models/formats/validation.ts";
import { ChatTemplate } from "../../tokenizer/index.ts";
import { type Batch, pairBatch, pairBatches, readPairs, ShuffledBatches } from "../data/index.ts";
import { permutation } from "../data/permutation.ts";
import { assertOutside } from "../data/text_data.ts";
import { PreferenceObjective, pairMetrics, preferenceLossNames } from "../losses/preference.ts";
import { evaluationOfMeans } from "../mean_evaluation.ts";
import { assertLength, openExisting } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { count, natural, positive, share } from "../settings/numbers.ts";
import { checkTrain, runSettings } from "../settings/run.ts";
import { paths } from "../settings/text.ts";
import { uploadTokens } from "../trainer.ts";

const { train, ...loop } = runSettings("preference");
const amount = z.number().min(0);

const schema = z
  .strictObject({
    model: z.strictObject({
      init_from: z
        .string()
        .describe("chat model or run to start from, and the reference; relative to the config file"),
    }),
    data: z.strictObject({
      path: paths.describe("pairs: JSONL, JSON, CSV or Parquet with chosen, rejected and a prompt"),
      validation_path: paths.optional().describe("files to measure on, instead of a share of the pairs"),
      validation_fraction: share.default(0.05).describe("share of the pairs held out"),
      seed: natural.default(0).describe("which pairs are held out"),
    }),
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

  async open(config, { say, resumeFrom }) {
    const { train, preference, model: settings } = config;
    const { sequence_length: seqLen, batch_size: batchSize, seed, compute_dtype } = train;
    const { tokenizer, hash, ...from } = await openExisting(settings.init_from);
    decoderConfig(from.config, settings.init_from);
    const reference = (from.model as CausalLM).computeIn(compute_dtype);
    const start = await openExisting(resumeFrom ?? settings.init_from);
    const model = (start.model as CausalLM).computeIn(compute_dtype);
    assertLength(model, seqLen);
    if (tokenizer.chatTemplate === null) {
      throw configError(
        `${settings.init_from} has no chat template: it cannot answer yet; teach it with kiln train sft first`,
      );
    }
    say(`reference, and start of the training: ${settings.init_from}`);
    const { train: pairs, held, content } = await openPairs(config, new ChatTemplate(tokenizer), say);
    const objective = new PreferenceObjective(model, reference, preference);
    const upload = (batch: Batch) => uploadTokens(batch, seqLen);
    return {
      model,
      tokenizer,
      batches: new ShuffledBatches(pairs, { batchSize, seed }, (chosen) => pairBatch(chosen, seqLen)),
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
      decisive: {
        data: content,
        model: model.config,
        reference: hash,
        tokenizer: tokenizer.hash(),
        preference,
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
  const { path, validation_path, ...reading } = data;
  const read = async (files: string[]) => {
    const { pairs, tooLong, equal, hash } = await readPairs(files, template, train.sequence_length);
    const left = `${tooLong} with more than train.sequence_length ${train.sequence_length} tokens, ${equal} with equal replies`;
    if (pairs.length === 0)
      throw new KilnError(`${files.join(", ")}: no pair is left: ${left}`, { code: "corpus_empty" });
    if (tooLong + equal > 0) say(`left out of ${files.join(", ")}: ${left}`);
    return { pairs, hash };
  };
  const all = await read(path);
  const other = validation_path && (await read(validation_path));
  const order = [...permutation(all.pairs.length, data.seed, 3)].map((i) => all.pairs[i]);
  const taken = other ? 0 : Math.floor(order.length * data.validation_fraction);
  const held = other?.pairs ?? order.slice(0, taken);
  say(`training data: ${order.length - taken} pairs; validation data: ${held.length}`);
  return {
    train: order.slice(taken),
    held,
    content: { content: all.hash, validation: other?.hash, ...reading },
  };
}
