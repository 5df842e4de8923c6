import { z } from "zod";
import { count, natural, share } from "./numbers.ts";

/** Settings of recipes that read plain text: `data` and `tokenizer`. */

const corpus = z
  .strictObject({
    seed: natural.default(0).describe("which stories"),
    stories: count.default(4000).describe("how many stories"),
  })
  .prefault({})
  .describe("the built-in story grammar, used where no path is given");

/** One path or several. */
export const paths = z.preprocess(
  (value) => (typeof value === "string" ? [value] : value),
  z.array(z.string()).min(1),
);

export const data = z
  .strictObject({
    path: paths.optional().describe("text or JSONL files, plain or .gz; relative to the config file"),
    validation_path: paths
      .optional()
      .describe("files for the validation loss; where not given, a share of the data"),
    corpus,
    seed: natural.default(0).describe("which documents are held out"),
    field: z
      .string()
      .min(1)
      .optional()
      .describe("the key that holds the text in JSONL, a.b for b in the object a; else text or story"),
    separator: z
      .preprocess(
        (value) => (typeof value === "string" ? value.replaceAll(/(\\r|\r)?(\\n|\n)/g, "\n") : value),
        z.string().min(1),
      )
      .default("<|endoftext|>")
      .describe("what ends a document of plain text; \\n for every line, \\n\\n for blank lines"),
    parse_special_tokens: z
      .boolean()
      .default(false)
      .describe("names of special tokens in the text become these tokens; else they are plain text"),
    validation_fraction: share
      .default(0.05)
      .describe("share of the tokens held out for the validation loss where no validation_path is given"),
  })
  .prefault({})
  .describe("what to train on");

export const tokenizer = z
  .strictObject({
    path: z
      .string()
      .optional()
      .describe("an existing tokenizer.json or model folder; relative to the config file"),
    kind: z
      .enum(["bpe", "char"])
      .default("bpe")
      .describe("what to make where no path is given: byte-level BPE, or a token for each character"),
    vocab_size: z.int().min(260).max(65536).default(1024).describe("size of the byte-level BPE"),
  })
  .prefault({})
  .describe("how text becomes tokens");

/** The settings of text data. */
export interface TextSettings {
  data: z.output<typeof data>;
  tokenizer: z.output<typeof tokenizer>;
}
