import { z } from "zod";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { splitExamples } from "../data/split.ts";
import { tableFormats } from "../data/table.ts";
import { readTextPairs, type TextPair } from "../data/text_pairs.ts";
import { encoderRecipe, encoderTokenizerFor, encodeTexts, openEncoder } from "../encoder_settings.ts";
import { type PairInputs, rankingLoss, rankingMetrics, rankingSums } from "../losses/contrastive.ts";
import { evaluationOfMeans } from "../mean_evaluation.ts";
import { assertLength, originOf } from "../model_settings.ts";
import { type EncodedPair, heldOutPairs, type PairBatch, PairBatches, uploadPairs } from "../pair_batches.ts";
import type { Recipe } from "../recipe.ts";
import { filesOf } from "../settings/chat.ts";
import { count, natural, positive, share } from "../settings/numbers.ts";
import { runSettings } from "../settings/run.ts";
import { paths } from "../settings/text.ts";

const column = z.string().min(1).optional();

const schema = encoderRecipe(
  z
    .strictObject({
      path: filesOf("pairs").describe("tables of queries and passages that answer them: CSV, JSONL, …"),
      validation_path: paths.optional().describe("tables to measure on, instead of a share of the data"),
      query: column.describe("column of the query or title; else one with a usual name"),
      passage: column.describe("column of the passage or text; else one with a usual name"),
      format: z.enum(tableFormats).optional().describe("where the file's name and content do not say it"),
      validation_fraction: share.default(0.05).describe("share of the pairs held out"),
      seed: natural.default(0).describe("which pairs are held out"),
    })
    .prefault({})
    .describe("what to train on"),
  {
    ranking: z
      .strictObject({
        group: z
          .int()
          .min(2)
          .default(16)
          .describe("pairs whose passages are each other's wrong answers; train.batch_size counts groups"),
        scale: positive.default(20).describe("cosines are multiplied by it before the softmax"),
        query_length: count.default(32).describe("tokens of a query that count"),
      })
      .prefault({})
      .describe("how a query's passage is told from others"),
    ...runSettings("embed"),
  },
);

type EmbedConfig = z.output<typeof schema>;

/** Trains an encoder whose vectors of a query and of the passage that answers it are near: for search by meaning. */
export const recipe: Recipe<EmbedConfig, PairBatch, PairInputs> = {
  name: "embed",
  schema,
  inputs: ["data.path", "data.validation_path", "tokenizer.path", "model.init_from"],

  async open(config, context) {
    const { data, train, model: settings, ranking } = config;
    const { say } = context;
    const origin = context.resumeFrom ?? (settings.init_from ? await originOf(settings.init_from) : null);
    const { path, validation_path, query, passage, format, ...split } = data;
    const read = (files: readonly string[]) => readTextPairs(files, { query, passage, format, say });
    const { training, held, content } = await splitExamples({ path, validation_path, ...split }, read);
    say(`training data: ${training.length} pairs; held out: ${held.length}`);
    const texts = training.flatMap((pair) => [pair.query, pair.passage]);
    const tokenizer = await encoderTokenizerFor(config, origin, texts, say);
    const model = await openEncoder(config, tokenizer, { task: "feature-extraction" }, origin, context);
    assertLength(model, train.sequence_length);
    const lengths = {
      query: Math.min(ranking.query_length, train.sequence_length),
      passage: train.sequence_length,
    };
    const encode = (pairs: readonly TextPair[]) => encodedPairs(tokenizer, pairs, lengths, say);
    const options = { batchSize: train.batch_size, group: ranking.group, lengths, seed: train.seed };
    const upload = (batch: PairBatch) => uploadPairs(batch, model);
    return {
      model,
      tokenizer,
      batches: new PairBatches(model, await encode(training), options),
      objective: { upload, loss: (inputs) => rankingLoss(model, inputs, ranking.scale) },
      evaluation: evaluationOfMeans(
        {
          names: rankingMetrics,
          upload,
          sums: (inputs: PairInputs) => rankingSums(model, inputs, ranking.scale),
        },
        heldOutPairs(model, await encode(held), options),
        { batchSize: 1, tokens: config.eval.tokens, size: `${held.length} held-out pairs` },
      ),
      decisive: {
        data: content,
        model: { ...settings, init_from: undefined, config: model.config },
        tokenizer: tokenizer.hash(),
        ranking,
      },
      close() {},
    };
  },
};

/** Pairs as tokens, cut to so many; equal texts have one number. */
async function encodedPairs(
  tokenizer: Tokenizer,
  pairs: readonly TextPair[],
  lengths: Record<keyof TextPair, number>,
  say: (line: string) => void,
): Promise<EncodedPair[]> {
  const side = async (name: keyof TextPair) => {
    const texts = pairs.map((pair) => pair[name]);
    const numbers = new Map<string, number>();
    for (const text of texts) if (!numbers.has(text)) numbers.set(text, numbers.size);
    const ids = await encodeTexts(tokenizer, texts, lengths[name], say);
    return { ids, numbers: texts.map((text) => numbers.get(text)!) };
  };
  const [query, passage] = [await side("query"), await side("passage")];
  return pairs.map((_, i) => ({
    ...{ query: query.ids[i], passage: passage.ids[i] },
    ...{ queryNumber: query.numbers[i], passageNumber: passage.numbers[i] },
  }));
}
