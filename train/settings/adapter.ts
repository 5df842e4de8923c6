import { z } from "zod";
import { count, positive, share } from "./numbers.ts";

/** `adapter`: whether a model is trained whole or by an adapter. */
export const adapter = z
  .strictObject({
    kind: z
      .enum(["none", "lora", "qlora"])
      .default("none")
      .describe(
        "none: the whole model is trained; lora: an adapter, in PEFT's format; qlora: one of a model in NF4 (Dettmers et al. 2023)",
      ),
    rank: count.max(65536).default(8).describe("rank of the change of a matrix"),
    alpha: positive.default(16).describe("the change is scaled by alpha / rank"),
    dropout: share.default(0).describe("share of the adapter's input that training drops"),
    targets: z
      .array(z.string())
      .min(1)
      .optional()
      .describe(
        "last parts of the names of the layers that change, or all-linear; else PEFT's for the model, as q_proj, v_proj",
      ),
    rslora: z.boolean().default(false).describe("scale by alpha / sqrt(rank) (Kalajdzievski 2023)"),
    dora: z
      .boolean()
      .default(false)
      .describe("train the lengths of the matrices' rows too (Liu et al. 2024)"),
  })
  .prefault({})
  .describe("what is trained");

export type AdapterSettings = z.output<typeof adapter>;
