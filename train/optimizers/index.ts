import { z } from "zod";
import type { Tensor } from "../../core/tensor.ts";
import { Adafactor } from "./adafactor.ts";
import { Adagrad } from "./adagrad.ts";
import { Adam, AdamW } from "./adam.ts";
import { AdamW8bit } from "./adam_8bit.ts";
import { Lion } from "./lion.ts";
import { MuonWithAdamW } from "./muon.ts";
import type { Optimizer, OptimizerOptions, Parameters } from "./optimizer.ts";
import { Rmsprop } from "./rmsprop.ts";
import { Sgd } from "./sgd.ts";

export { Adafactor, type AdafactorOptions } from "./adafactor.ts";
export { Adagrad, type AdagradOptions } from "./adagrad.ts";
export { Adam, type AdamOptions, AdamW } from "./adam.ts";
export { AdamW8bit, type AdamW8bitOptions } from "./adam_8bit.ts";
export { clipGradNorm } from "./clip.ts";
export { Lion, type LionOptions } from "./lion.ts";
export { Muon, type MuonOptions, MuonWithAdamW, type MuonWithAdamWOptions } from "./muon.ts";
export type { Optimizer, OptimizerOptions, Parameters } from "./optimizer.ts";
export { Rmsprop, type RmspropOptions } from "./rmsprop.ts";
export { Sgd, type SgdOptions } from "./sgd.ts";

const share = z.number().min(0).lt(1);
const decay = (value: number) =>
  z.number().min(0).default(value).describe("decay of matrices; vectors have none");
const epsilon = (value: number) => z.number().positive().default(value).describe("added to the divisor");
const betas = (first: number, second: number) =>
  z.tuple([share, share]).default([first, second]).describe("memory of the mean and of the square");
const nesterov = (value: boolean) =>
  z.boolean().default(value).describe("whether to look ahead by the momentum");

/** An optimizer that `train.optimizer.name` chooses. How to add one: docs/adding-an-optimizer.md. */
interface Row<S extends z.ZodRawShape> {
  /** One line for `kiln settings`. */
  doc: string;
  /** Its keys under `train.optimizer`, with defaults for language models. */
  settings: S;
  create(parameters: Parameters, settings: z.output<z.ZodObject<S>>): Optimizer;
}

const row = <S extends z.ZodRawShape>(of: Row<S>) => of;

/** Every optimizer that can be chosen, by its name. */
export const optimizers = {
  adamw: row({
    doc: "Adam with decoupled weight decay",
    settings: { weight_decay: decay(0.1), betas: betas(0.9, 0.95), eps: epsilon(1e-8) },
    create: (parameters, settings) => new AdamW(parameters, options(settings)),
  }),
  adam: row({
    doc: "Adam, whose weight decay is part of the gradient",
    settings: { weight_decay: decay(0), betas: betas(0.9, 0.95), eps: epsilon(1e-8) },
    create: (parameters, settings) => new Adam(parameters, options(settings)),
  }),
  adamw_8bit: row({
    doc: "adamw whose means take a byte each instead of four",
    settings: {
      weight_decay: decay(0.1),
      betas: betas(0.9, 0.95),
      eps: epsilon(1e-8),
      min_8bit_size: z
        .int()
        .min(0)
        .default(4096)
        .describe("parameters with fewer values keep theirs in four bytes"),
    },
    create: (parameters, settings) => new AdamW8bit(parameters, options(settings)),
  }),
  sgd: row({
    doc: "stochastic gradient descent",
    settings: {
      weight_decay: decay(0),
      momentum: share.default(0.9).describe("memory of the gradients"),
      dampening: share.default(0).describe("share of a new gradient that the momentum leaves out"),
      nesterov: nesterov(false),
    },
    create: (parameters, settings) => new Sgd(parameters, options(settings)),
  }),
  rmsprop: row({
    doc: "gradients over the root of the mean of their squares",
    settings: {
      weight_decay: decay(0),
      alpha: share.default(0.99).describe("memory of the square"),
      eps: epsilon(1e-8),
    },
    create: (parameters, settings) => new Rmsprop(parameters, options(settings)),
  }),
  adagrad: row({
    doc: "gradients over the root of the sum of their squares",
    settings: {
      weight_decay: decay(0),
      lr_decay: z.number().min(0).default(0).describe("update t has the rate lr / (1 + t lr_decay)"),
      eps: epsilon(1e-10),
    },
    create: (parameters, settings) => new Adagrad(parameters, options(settings)),
  }),
  muon: row({
    doc: "orthogonal updates of matrices; AdamW for vectors, embeddings and the head",
    settings: {
      weight_decay: decay(0.1),
      momentum: share.default(0.95).describe("memory of the gradients"),
      nesterov: nesterov(true),
      adjust_lr_fn: z
        .enum(["match_rms_adamw", "original"])
        .default("match_rms_adamw")
        .describe(
          "how large updates of matrices are: as AdamW's at the same rate, or as in Muon's first version",
        ),
      betas: betas(0.9, 0.95),
      adamw_eps: epsilon(1e-8),
    },
    create: (parameters, settings) => new MuonWithAdamW(parameters, options(settings)),
  }),
  lion: row({
    doc: "the sign of a momentum; wants a learning rate 3 to 10 times lower than adamw",
    settings: { weight_decay: decay(0.1), betas: betas(0.9, 0.99) },
    create: (parameters, settings) => new Lion(parameters, options(settings)),
  }),
  adafactor: row({
    doc: "means of squares by row and column alone, which saves memory",
    settings: {
      weight_decay: decay(0),
      beta2_decay: z
        .number()
        .negative()
        .default(-0.8)
        .describe("the mean of squares moves by step^beta2_decay"),
      eps: z
        .tuple([z.number().positive(), z.number().positive()])
        .default([2 ** -23, 1e-3])
        .describe("lower bounds of the means of squares, and of a parameter's root mean square"),
      d: z
        .number()
        .positive()
        .default(1)
        .describe("the root mean square above which an update is scaled down"),
    },
    create: (parameters, settings) => new Adafactor(parameters, options(settings)),
  }),
};

type Name = keyof typeof optimizers;

/** `train.optimizer`: a name with the settings of that optimizer. */
export type OptimizerSettings = {
  [N in Name]: { name: N } & z.output<z.ZodObject<(typeof optimizers)[N]["settings"]>>;
}[Name];

const rows = Object.entries(optimizers as Record<string, Row<z.ZodRawShape>>);

/** Checks `train.optimizer`; without a name it is AdamW. */
export const optimizerSchema = z.preprocess(
  (value) => (typeof value === "object" && value !== null ? { name: "adamw", ...value } : value),
  z.discriminatedUnion(
    "name",
    rows.map(([name, { doc, settings }]) =>
      z.strictObject({ name: z.literal(name), ...settings }).describe(doc),
    ) as unknown as [z.ZodObject<{ name: z.ZodLiteral<string> }>],
  ),
) as unknown as z.ZodType<OptimizerSettings>;

/** The optimizer that the settings of a run name, for these parameters; the loop sets its rate. */
export function createOptimizer(parameters: Parameters, { name, ...settings }: OptimizerSettings): Optimizer {
  return (optimizers[name] as Row<z.ZodRawShape>).create(parameters, settings);
}

type Camel<S extends string> = S extends `${infer A}_${infer B}` ? `${A}${Capitalize<Camel<B>>}` : S;

/** Settings as the options of a class: weight_decay is weightDecay. Vectors (norms, biases) are not decayed, as in GPT-3. */
function options<S extends object>(settings: S) {
  const camel = (key: string) => key.replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const entries = Object.entries(settings).map(([key, value]) => [camel(key), value]);
  const decays: OptimizerOptions["decays"] = (_name: string, { rank }: Tensor) => rank >= 2;
  return { ...Object.fromEntries(entries), decays } as {
    [K in keyof S as Camel<K & string>]: S[K];
  } & Pick<OptimizerOptions, "decays">;
}
