import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { parseWith } from "../../../models/formats/validation.ts";
import { cleanModes, privateKinds } from "../../../tokenizer/text/index.ts";
import type { Override } from "../../settings/load.ts";
import { count, natural, positive, share } from "../../settings/numbers.ts";
import { paths } from "../../settings/text.ts";
import { pairModes, trainingFormats } from "./formatter.ts";

/** The one YAML of conversation data: `docs/configs/conversations.yaml`. */

const mode = z.enum(cleanModes).default("redact");
const group = <S extends z.ZodRawShape>(shape: S, text: string) =>
  z
    .strictObject(shape)
    .prefault({} as never)
    .describe(text);

const clean = {
  ...(Object.fromEntries(privateKinds.map((kind) => [kind, mode])) as Record<
    (typeof privateKinds)[number],
    typeof mode
  >),
  region: z
    .string()
    .regex(/^[A-Z]{2}$/, "expected two capital letters such as US (ISO 3166)")
    .default("US")
    .describe("country of phone numbers that name none"),
};

const quality = {
  min_length: natural.default(10).describe("characters of a message after cleaning, at least"),
  max_length: count.default(1000).describe("characters of a message, at most"),
  min_distinct_words: share
    .default(0.2)
    .describe("different words over all, of messages of 20 words and more"),
  max_repetition: z
    .number()
    .min(0)
    .max(1)
    .default(0.15)
    .describe("share of characters in repeated runs of five words"),
  max_top_pair: z
    .number()
    .min(0)
    .max(1)
    .default(0.2)
    .describe("share of characters in the most frequent run of two words"),
  max_symbols: z
    .number()
    .min(0)
    .max(1)
    .default(0.4)
    .describe("share of characters that are no letter, digit or space, outside code"),
  languages: z
    .array(z.string().regex(/^[a-z]{3}$/, "expected three letters such as eng (ISO 639-3)"))
    .default([])
    .describe("languages that stay; empty: all. A text of fewer than 24 letters stays"),
  toxic_words: z.boolean().default(true).describe("drop what has a word of a list of obscene words"),
  toxic_model: z
    .string()
    .default("")
    .describe("a classifier of kiln train classify that must agree with the list, or be sure by itself"),
  harmless_labels: z
    .array(z.string())
    .default(["2", "neither", "neutral", "clean"])
    .describe("its labels that are not toxic"),
  toxic_with_word: share.default(0.5).describe("probability from which the classifier agrees"),
  toxic_alone: share.default(0.9).describe("probability from which it is sure"),
  refusals: z
    .boolean()
    .default(true)
    .describe("drop refusals in the usual words, and answers that repeat the question"),
  min_rating: z
    .union([z.literal(-1), z.literal(0), z.literal(1)])
    .default(-1)
    .describe("least rating; none given is 0"),
};

const dedupe = {
  exact: z.boolean().default(true).describe("equal but for case, punctuation and width"),
  near: z
    .number()
    .min(0)
    .max(1)
    .default(0.8)
    .describe("least Jaccard similarity of runs of three words; 0: off"),
  keep: z
    .enum(["first", "best", "drop_all", "all"])
    .default("first")
    .describe(
      "which of several stays: the earliest, the best rated and longest, none, or all, on one side of the split",
    ),
  against: z
    .array(z.string())
    .default([])
    .describe("files whose conversations are duplicates too, such as a test set"),
};

const split = {
  train: z.number().gt(0).max(1).default(0.8),
  val: share.default(0.1).describe("the rest is the test set"),
  seed: natural.default(0),
  exact: z
    .boolean()
    .default(false)
    .describe("cut at the shares; else each conversation falls by a hash, whatever is added"),
  stratify: z.string().optional().describe("a field of the metadata whose values are split alike"),
};

const schema = z
  .strictObject({
    sources: paths.optional().describe("files and folders of conversations; relative to this file"),
    map: z.record(z.string(), z.string()).default({}).describe("names of fields, such as prompt: question"),
    logger: group(
      {
        path: z.string().optional().describe("the log; where given, it is a source too"),
        fsync: z.enum(["never", "1s", "always"]).default("1s"),
        rotate_bytes: count.default(64 * 2 ** 20).describe("size at which a new file begins"),
        rotate_daily: z.boolean().default(false),
      },
      "the log of conversations",
    ),
    clean: group(clean, "what becomes of private data: redact, remove, drop (the conversation) or keep"),
    quality: group(quality, "what is dropped"),
    dedupe: group(dedupe, "duplicates"),
    split: group(split, "train, val and test").refine(
      (value) => value.train + value.val <= 1 + 1e-9,
      "train and val should be 1 together at most",
    ),
    format: group(
      { name: z.enum(trainingFormats).default("openai"), mode: z.enum(pairModes).default("whole_dialogue") },
      "the rows of the dataset",
    ),
    tokenizer: group(
      {
        path: z.string().optional().describe("a model whose tokens are counted"),
        context: count.default(1024).describe("tokens that a model reads: what is longer is reported"),
      },
      "counts of tokens",
    ),
    training: group(
      {
        base: z
          .string()
          .optional()
          .describe("the model to tune; the dataset then has sft.yaml for kiln train sft"),
        method: z.enum(["full", "lora", "qlora"]).default("lora"),
        rank: count.default(8),
        alpha: positive.default(16),
        dropout: share.default(0),
        learning_rate: positive.default(2e-4),
        batch: count.default(8),
        epochs: count.default(1),
        sequence_length: count.min(2).default(512),
      },
      "what sft.yaml says",
    ),
    evaluation: group(
      {
        prompts: z.array(z.string()).default([]).describe("messages that samples in training answer"),
        max_tokens: count.default(100).describe("tokens of an answer"),
        compare_to: z.string().optional().describe("the model before, for kiln eval chat"),
      },
      "how the model is measured",
    ),
    deployment: group(
      {
        name: z.string().optional().describe("name of the finished model"),
        alias: z.string().optional(),
        ollama: group(
          {
            url: z.string().default("http://127.0.0.1:11434"),
            model: z.string().optional().describe("name at Ollama"),
            quantization: z.enum(["f32", "f16", "q8_0", "q4_0"]).default("q8_0"),
          },
          "export for Ollama",
        ),
      },
      "where the finished model goes",
    ),
  })
  .describe("conversation data");

export type DataConfig = z.output<typeof schema>;
export type DedupeSettings = DataConfig["dedupe"];
export type SplitSettings = DataConfig["split"];

/** The settings of `kiln data`, for `parseSettings`. */
export const dataSettings = {
  name: "data",
  schema,
  inputs: ["sources", "logger.path", "dedupe.against"],
};

const cleaner = z.strictObject({ ...clean, ...quality, ...dedupe });
/** Settings of a cleaner: those of `clean`, `quality` and `dedupe` together. */
export type CleanerOptions = z.input<typeof cleaner>;
export type CleanerSettings = z.output<typeof cleaner>;

/** Checks options and fills in defaults. Throws a KilnError that names what is wrong, with the nearest known name. */
export const cleanerSettings = (options: CleanerOptions): CleanerSettings =>
  parseWith(cleaner, options, () => "DataCleaner");
/** The same for the whole configuration. */
export const dataConfig = (options: z.input<typeof schema> = {}): DataConfig =>
  parseWith(schema, options, () => "DatasetBuilder");

/** Settings that name a model: a folder, or org/name of one that was pulled. */
const models: [group: "tokenizer" | "training" | "quality" | "evaluation", key: string][] = [
  ["tokenizer", "path"],
  ["training", "base"],
  ["quality", "toxic_model"],
  ["evaluation", "compare_to"],
];

/**
 * The settings of a file, or the defaults, with overrides (`--set`) on top. Relative paths start from the file's folder. Throws a
 * KilnError with the line of what is wrong.
 */
export async function loadDataConfig(
  file: string | null,
  overrides: readonly Override[] = [],
): Promise<DataConfig> {
  const [{ parseSettings }, { readText }] = await Promise.all([
    import("../../settings/load.ts"),
    import("../../../core/platform/files.ts"),
  ]);
  const text = file === null ? "{}" : await readText(file);
  const config = parseSettings(dataSettings, text, file ?? "the settings", overrides);
  for (const [name, key] of models) {
    const values = config[name] as Record<string, unknown>;
    const given = values[key];
    if (typeof given !== "string" || given === "" || file === null) continue;
    const path = resolve(dirname(file), given);
    if (existsSync(path)) values[key] = path;
  }
  return config;
}
