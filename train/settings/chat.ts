import { z } from "zod";
import { natural, share } from "./numbers.ts";
import { paths } from "./text.ts";

/** Paths of a recipe's data, of which there must be one. */
export const filesOf = (kind: string) =>
  paths.default([]).refine((files) => files.length > 0, `give files of ${kind}: --data FILE`);

/** `data` and `model` of recipes that teach a model on conversations. */
export const data = z
  .strictObject({
    path: filesOf("conversations").describe(
      "conversations: JSONL, JSON, CSV, Parquet, or text with lines User: and Assistant:",
    ),
    validation_path: paths
      .optional()
      .describe("files for the validation loss, instead of a share of the data"),
    validation_fraction: share.default(0.05).describe("share of the conversations held out"),
    seed: natural.default(0).describe("which conversations are held out"),
    packing: z
      .boolean()
      .default(true)
      .describe("several whole conversations in a row, which do not see each other; false: one"),
    min_updates: natural
      .default(0)
      .describe(
        "updates of a pass at least: little data is cut into shorter rows, then into fewer; 0: as train says",
      ),
  })
  .prefault({})
  .describe("what to train on");

export const model = z
  .strictObject({
    init_from: z
      .string()
      .default("")
      .refine((path) => path !== "", "give the model to start from, before --data or with --init-from")
      .describe("model folder, run or GGUF file; relative to the config file"),
    plain_turns: z
      .boolean()
      .default(false)
      .describe("turns are lines of text, as kiln serve asks a model without a chat template; false: ChatML"),
  })
  .prefault({})
  .describe("the model to train");
