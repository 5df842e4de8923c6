import { z } from "zod";
import { type Batch, PackedBatches } from "../data/index.ts";
import { assertOutside, openTextData } from "../data/text_data.ts";
import { heldOutText, Validation } from "../evaluate.ts";
import { decoderSettings, maxPositions, openModel, originOf, positionsOf } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { type RunOptions, type RunResult, run } from "../run.ts";
import { loadSettings, type Override, parseSettings } from "../settings/load.ts";
import { model } from "../settings/model.ts";
import { checkTrain, runSettings, sampleSettings } from "../settings/run.ts";
import { data, tokenizer } from "../settings/text.ts";

const sample = sampleSettings(["Once upon a time"], "what the samples continue");
const schema = z
  .strictObject({ data, tokenizer, model, ...runSettings("pretrain"), sample })
  .superRefine((config, context) => {
    checkTrain(config, context);
    const complain = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
    if (config.model.config !== undefined && config.model.init_from !== undefined)
      complain(["model", "init_from"], "give it or model.config, not both");
    const { sequence_length } = config.train;
    const longest = positionsOf(config.model);
    if (sequence_length > longest) {
      const message = `${sequence_length} is longer than model.max_position_embeddings, which is ${longest}`;
      complain(["train", "sequence_length"], message);
    }
  });

/** Checked settings; the paths in `data`, `tokenizer.path`, `model.config` and `model.init_from` are absolute. */
export type PretrainConfig = z.output<typeof schema>;

/**
 * Trains a decoder, from scratch or from the weights of another, on text: corpus, tokenizer, packed batches, validation
 * loss and bits per byte, and samples.
 */
export const recipe: Recipe<PretrainConfig, Batch> = {
  name: "pretrain",
  schema,
  inputs: ["data.path", "data.validation_path", "tokenizer.path", "model.config", "model.init_from"],

  check: ({ out_dir, data: { path, validation_path } }) => assertOutside(out_dir, path, validation_path),

  async open(config, context) {
    const { train, model: settings } = config;
    // A checkpoint has everything that is needed of the model which the run started from.
    const origin = settings.init_from ? (context.resumeFrom ?? (await originOf(settings.init_from))) : null;
    const path = config.tokenizer.path ?? origin ?? undefined;
    const text = { ...config, tokenizer: { ...config.tokenizer, path } };
    const { tokenizer, ...source } = await openTextData(text, maxPositions(config), context);
    const packing = { batchSize: train.batch_size, seqLen: train.sequence_length, seed: train.seed };
    const decoder = await decoderSettings(config, tokenizer, origin);
    const model = await openModel(decoder, train, origin, context);
    const sampler = context.makeSampler(model, tokenizer);
    const { prompts, max_tokens, temperature } = config.sample;
    const { path: _p, validation_path: _v, corpus: _c, ...reading } = config.data;
    return {
      model,
      tokenizer,
      batches: new PackedBatches(source.train.shard, source.train.documents, packing),
      evaluation: new Validation(
        heldOutText(source.validation.shard, source.validation.documents, train.sequence_length),
        config.eval.tokens,
      ),
      async sample(seed) {
        const texts: string[] = [];
        for (const prompt of prompts)
          texts.push(prompt + (await sampler(prompt, { max_tokens, temperature, seed })));
        return texts;
      },
      // The content of the data decides, not its path.
      decisive: { data: { content: source.hash, ...reading }, model: decoder, tokenizer: tokenizer.hash() },
      close: source.close,
    };
  },
};

export const pretrain = (options: RunOptions<PretrainConfig>): Promise<RunResult> => run(recipe, options);

/** The settings of a config file, or the defaults where `path` is null; see `loadSettings`. */
export const loadPretrainConfig = (
  path: string | null,
  overrides: readonly Override[] = [],
): Promise<PretrainConfig> => loadSettings(recipe, path, overrides);

/** The settings in the text of a config file; see `parseSettings`. */
export const parsePretrainConfig = (
  text: string,
  name: string,
  overrides: readonly Override[] = [],
): PretrainConfig => parseSettings(recipe, text, name, overrides);
