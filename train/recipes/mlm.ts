import { createHash } from "node:crypto";
import type { z } from "zod";
import { dispose } from "../../core/scope.ts";
import { configError } from "../../models/formats/validation.ts";
import { fileSource } from "../data/index.ts";
import { permutation } from "../data/permutation.ts";
import { encoderRecipe, encoderTokenizerFor, openEncoder } from "../encoder_settings.ts";
import { type MaskedBatch, MaskedBatches, type MaskedInputs } from "../masked_texts.ts";
import { originOf } from "../model_settings.ts";
import type { Evaluator, Recipe } from "../recipe.ts";
import { share } from "../settings/numbers.ts";
import { runSettings } from "../settings/run.ts";
import { data as textData } from "../settings/text.ts";
import { fillRows } from "../text_batches.ts";

const schema = encoderRecipe(
  textData
    .unwrap()
    .pick({ path: true, seed: true, field: true, separator: true, validation_fraction: true })
    .extend({ mask_share: share.default(0.15).describe("share of the tokens that are guessed") })
    .prefault({})
    .describe("what to train on"),
  runSettings("mlm"),
);

type MlmConfig = z.output<typeof schema>;

/** All documents of the data, in memory. */
async function readDocuments({ path, field, separator }: MlmConfig["data"]): Promise<string[]> {
  if (!path) throw configError("data.path is missing: name files of text with --data");
  const documents = [""];
  for await (const { text, ends } of fileSource(path, { field, separator }).documents()) {
    documents[documents.length - 1] += text;
    if (ends) documents.push("");
  }
  return documents.filter((text) => text.trim() !== "");
}

/** Trains an encoder to guess masked tokens, from scratch or from one to start from, so that it can be fine-tuned afterwards. */
export const recipe: Recipe<MlmConfig, MaskedBatch, MaskedInputs> = {
  name: "mlm",
  schema,
  inputs: ["data.path", "tokenizer.path", "model.init_from"],

  async open(config, context) {
    const { data, train, model: settings } = config;
    const { say } = context;
    const origin = context.resumeFrom ?? (settings.init_from ? await originOf(settings.init_from) : null);
    const documents = await readDocuments(data);
    const tokenizer = await encoderTokenizerFor(config, origin, documents, say);
    if (tokenizer.maskId === null)
      throw configError(
        "the tokenizer has no mask token: give mask_token in tokenizer_config.json, or train from scratch",
      );
    const model = await openEncoder(config, tokenizer, { task: "fill-mask" }, origin, context);
    const { sequence_length: length, batch_size: batchSize, seed } = train;
    const longest = Math.min(length, model.shape.max_position_embeddings);
    const encoded = await tokenizer.encodeBatch(documents, { parseSpecialTokens: false });
    // Long documents are cut into pieces: no token is lost.
    const pieces = encoded.flatMap((ids) =>
      Array.from({ length: Math.ceil(ids.length / longest) }, (_, i) => ({
        ids: ids.slice(i * longest, (i + 1) * longest),
      })),
    );
    const order = permutation(pieces.length, data.seed);
    const held = Math.round(data.validation_fraction * pieces.length);
    const side = (from: number, to: number) => Array.from(order.subarray(from, to), (i) => pieces[i]);
    const options = { batchSize, length, seed, share: data.mask_share };
    const [training, validation] = [side(held, pieces.length), side(0, held)].map(
      (some) => new MaskedBatches(model, tokenizer, fillRows(some, length, seed), options),
    );
    say(
      `training data: ${training.rowsPerEpoch} rows of ${length} tokens; held out: ${validation.rowsPerEpoch}`,
    );
    const measure = async (trainer: Evaluator<MaskedBatch>, rows?: number, signal?: AbortSignal) => {
      let [nats, guessed] = [0, 0];
      for (const batch of validation.all(rows)) {
        if (signal?.aborted) return null;
        const sum = trainer.evaluate(batch);
        nats += await sum.item();
        dispose(sum);
        guessed += batch.supervised;
      }
      return guessed === 0 ? null : { validation_loss: nats / guessed, validation_tokens: guessed };
    };
    const budget = Math.min(validation.rowsPerEpoch, Math.ceil(config.eval.tokens / length));
    const content = createHash("sha256").update(JSON.stringify(documents)).digest("hex");
    const { path: _p, ...reading } = data;
    return {
      model,
      tokenizer,
      batches: training,
      objective: training.objective,
      evaluation: {
        criterion: "validation_loss",
        samplesAll: budget === validation.rowsPerEpoch,
        size: `${validation.rowsPerEpoch} held-out rows`,
        sample: (trainer) => measure(trainer, budget),
        all: (trainer, signal) => measure(trainer, undefined, signal),
      },
      decisive: {
        data: { content, ...reading },
        model: { ...settings, init_from: undefined, config: model.config },
        tokenizer: tokenizer.hash(),
      },
      close() {},
    };
  },
};
