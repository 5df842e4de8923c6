import { z } from "zod";
import { optimizerSchema } from "../optimizers/index.ts";
import { SCHEDULE_NAMES } from "../optimizers/schedules.ts";
import { count, natural, positive } from "./numbers.ts";

/** What every recipe can set: how the loop trains, measures and saves. */

const lossScale = z
  .strictObject({
    init_scale: positive.default(65536).describe("factor of the loss at the start"),
    growth_factor: z.number().min(1).default(2).describe("the scale grows by this factor"),
    backoff_factor: z
      .number()
      .gt(0)
      .lt(1)
      .default(0.5)
      .describe("and shrinks by this one where gradients overflow, which skips the update"),
    growth_interval: count.default(2000).describe("updates without overflow before it grows"),
  })
  .prefault({})
  .describe("the dynamic loss scale of compute_dtype f16, as torch.amp.GradScaler");

const train = z
  .strictObject({
    steps: count.optional().describe("optimizer updates; 1000 where epochs is not given either"),
    epochs: positive.optional().describe("passes over the data, instead of steps"),
    batch_size: count.default(16).describe("sequences of one forward pass"),
    sequence_length: z.int().min(2).default(256).describe("tokens of one packed sequence"),
    gradient_accumulation_steps: count.default(1).describe("forward passes of one update"),
    learning_rate: positive.default(1e-3).describe("the highest rate"),
    min_lr_ratio: z
      .number()
      .min(0)
      .max(1)
      .default(0.1)
      .describe("where the rate ends, as a share of learning_rate"),
    warmup_steps: natural
      .optional()
      .describe("updates over which the rate rises; by default a tenth of all, at most 100"),
    schedule: z.enum(SCHEDULE_NAMES).default("cosine").describe("how the rate changes"),
    optimizer: optimizerSchema
      .prefault({} as never)
      .describe("the optimizer; its settings depend on its name"),
    max_grad_norm: z.number().min(0).default(1).describe("gradients are scaled down to this norm; 0 never"),
    seed: natural.default(0).describe("decides first weights, order of the data and samples"),
    compute_dtype: z
      .enum(["f32", "f16"])
      .default("f32")
      .describe("f16: mixed precision, weights kept in f32; the adapter must have shader-f16"),
    loss_scale: lossScale,
    gradient_checkpointing: z
      .boolean()
      .default(false)
      .describe(
        "keep only the input of each layer and compute the rest again: less memory, a third more time",
      ),
    ema_decay: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe("average the weights with this decay, e.g. 0.999, and measure and save the average; 0 never"),
  })
  .prefault({})
  .describe("how to train");

const evaluation = z
  .strictObject({
    every: natural.default(100).describe("updates between validation losses; 0 only at the end"),
    tokens: count
      .default(32768)
      .describe("tokens of one measurement, spread evenly over the held-out text; at the end all of it"),
    patience: natural
      .default(0)
      .describe("measurements without a better one after which the run ends, with the best model; 0 never"),
    min_delta: z.number().min(0).default(0).describe("what counts as better must be so by more than this"),
  })
  .prefault({})
  .describe("the validation loss");

/** Texts that a language model writes on the way, from these prompts where no others are set. */
export const sampleSettings = (prompts: string[], description: string) =>
  z
    .strictObject({
      every: natural.default(250).describe("updates between samples; 0 only at the end"),
      prompts: z.array(z.string()).default(prompts).describe(description),
      max_tokens: count.default(80).describe("tokens of one sample"),
      temperature: z.number().min(0).default(0.8).describe("0 takes the likeliest token"),
    })
    .prefault({})
    .describe("texts that show the progress");

const checkpoint = z
  .strictObject({
    every: natural.default(250).describe("updates between checkpoints; 0 only at the end"),
    keep: z
      .int()
      .min(2)
      .default(2)
      .describe("newest checkpoints that stay; at least 2, so that a damaged one does not end the run"),
    keep_best: z
      .boolean()
      .default(false)
      .describe("also keep the model with the lowest validation loss, in best/"),
  })
  .prefault({})
  .describe("saved states from which a run resumes exactly");

/** The settings of the loop, for the run folder `runs/NAME` unless `out_dir` says another. */
export const runSettings = (recipe: string) => ({
  train,
  eval: evaluation,
  checkpoint,
  out_dir: z
    .string()
    .min(1)
    .default(`runs/${recipe}`)
    .describe("folder of the run; relative to where kiln starts"),
  resume: z
    .union([z.boolean(), z.string().min(1)])
    .default(false)
    .describe("go on from the newest checkpoint in out_dir, or from the named one, e.g. step-000250"),
});

/** The checked settings of the loop; a recipe's own come beside them. */
export type RunSettings = z.output<z.ZodObject<ReturnType<typeof runSettings>>>;

/** Adds an issue where two settings of the loop contradict each other. */
export function checkTrain(
  { train: settings, eval: evaluation }: RunSettings,
  context: z.RefinementCtx,
): void {
  const { steps, epochs, warmup_steps, schedule } = settings;
  const complain = (key: string, message: string, section = "train") =>
    context.addIssue({ code: "custom", path: [section, key], message });
  if (steps !== undefined && epochs !== undefined) complain("epochs", "give steps or epochs, not both");
  const total = epochs === undefined ? (steps ?? 1000) : Infinity;
  if (warmup_steps !== undefined && warmup_steps > total && schedule !== "constant")
    complain("warmup_steps", `${warmup_steps} is more than the ${total} steps of the run`);
  if (evaluation.patience > 0 && evaluation.every === 0)
    complain("patience", "counts measurements, and eval.every 0 makes none on the way", "eval");
}
