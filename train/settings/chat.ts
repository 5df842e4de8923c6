import { z } from "zod";
import { natural, share } from "./numbers.ts";
import { paths } from "./text.ts";

/** `data` of recipes that learn from conversations. */
export const data = z
  .strictObject({
    path: paths.describe("conversations: JSONL, JSON, CSV, Parquet, or text with lines User: and Assistant:"),
    validation_path: paths
      .optional()
      .describe("files for the validation loss, instead of a share of the data"),
    validation_fraction: share.default(0.05).describe("share of the conversations held out"),
    seed: natural.default(0).describe("which conversations are held out"),
    packing: z
      .boolean()
      .default(true)
      .describe("several whole conversations in a row, which do not see each other; false: one"),
  })
  .describe("what to train on");
