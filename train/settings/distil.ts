import { z } from "zod";
import { labelledData } from "../classifier_data.ts";
import { count, positive, share } from "./numbers.ts";
import { checkTrain, runSettings } from "./run.ts";
import { data } from "./text.ts";

/** Settings of `kiln train distil`. */

const weight = z.number().min(0);

const { test_path, test_fraction, ...columns } = labelledData
  .unwrap()
  .pick({ text: true, label: true, format: true, test_path: true, test_fraction: true }).shape;

export const schema = z
  .strictObject({
    data: data
      .unwrap()
      .extend({
        validation_fraction: share
          .optional()
          .describe(
            "share held out where no validation_path is given; 0.05 of the tokens, 0.1 of labelled texts",
          ),
        ...{ test_path, test_fraction, ...columns },
      })
      .prefault({})
      .describe("what to train on: text, or for a classifier tables of texts and labels"),
    model: z.strictObject({
      init_from: z
        .string()
        .describe(
          "the teacher: a model folder or run of a decoder, masked LM or classifier; relative to the config file",
        ),
      num_hidden_layers: count.optional().describe("layers of the student; by default half of the teacher's"),
    }),
    distil: z
      .strictObject({
        more_teachers: z
          .array(z.string())
          .default([])
          .describe(
            "further teachers of a classifier, with the same tokenizer and labels, such as runs with other seeds; relative to the config file",
          ),
        temperature: positive.default(2).describe("divides the logits of both models"),
        divergence: z
          .enum(["forward", "reverse"])
          .default("forward")
          .describe(
            "KL(teacher || student), or reverse: the student leaves out what the teacher rarely says",
          ),
        soft_weight: weight.default(5).describe("what the divergence counts"),
        hard_weight: weight.default(2).describe("what the student's own loss counts"),
        hidden_weight: weight.default(1).describe("what 1 - cos of the last hidden states counts"),
        mask_share: share.gt(0).default(0.15).describe("share of the tokens that a masked LM has to find"),
      })
      .prefault({}),
    ...runSettings("distil"),
  })
  .superRefine(checkTrain);

export type DistilConfig = z.output<typeof schema>;
