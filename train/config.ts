import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { isMap, isNode, LineCounter, parse, parseDocument } from "yaml";
import { z } from "zod";
import { KilnError } from "../core/errors.ts";
import { readText } from "../core/platform/files.ts";
import { presets } from "../models/architectures.ts";
import { parseWith, unwrap } from "../models/formats/validation.ts";
import { SCHEDULE_NAMES } from "./optimizers/schedules.ts";

/** The settings of `kiln train pretrain`: one schema for the file, `--set` and flags, and for the help that describes them. */

const count = z.int().min(1);
const natural = z.int().min(0);
const share = z.number().min(0).lt(1);
const positive = z.number().positive();

const corpus = z
  .strictObject({
    seed: natural.default(0).describe("which stories"),
    stories: count.default(4000).describe("how many stories"),
  })
  .prefault({})
  .describe("the built-in story grammar, used where no path is given");

/** One path or several. */
const paths = z
  .preprocess((value) => (typeof value === "string" ? [value] : value), z.array(z.string()).min(1))
  .optional();

const data = z
  .strictObject({
    path: paths.describe("text or JSONL files, plain or .gz; relative to the config file"),
    validation_path: paths.describe("files for the validation loss; where not given, a share of the data"),
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

const tokenizer = z
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

const model = z
  .strictObject({
    preset: z
      .enum(Object.keys(presets) as (keyof typeof presets)[])
      .default("tinyllm")
      .describe("the shape that the keys below change: a small Llama, or GPT-2 small"),
    init_from: z
      .string()
      .optional()
      .describe(
        "start from the weights, shape and tokenizer of this model folder or run; relative to the config file",
      ),
    config: z
      .string()
      .optional()
      .describe("a Llama or GPT-2 config.json to use instead of the preset; relative to the config file"),
    hidden_size: count.optional().describe("width; preset 128 (gpt2 768)"),
    intermediate_size: count
      .optional()
      .describe("width inside the MLP; preset 8/3 of hidden_size, a multiple of 16 (gpt2 4 of it)"),
    num_hidden_layers: count.optional().describe("number of blocks; preset 4 (gpt2 12)"),
    num_attention_heads: count.optional().describe("query heads; preset 4 (gpt2 12)"),
    num_key_value_heads: count.optional().describe("key and value heads; preset as many as query heads"),
    head_dim: count.optional().describe("width of a head; preset hidden_size / num_attention_heads"),
    max_position_embeddings: count.optional().describe("longest context in tokens; preset 512 (gpt2 1024)"),
    rms_norm_eps: positive.optional().describe("preset 1e-5"),
    rope_theta: positive.optional().describe("base of the rotary frequencies; preset 10000"),
    tie_word_embeddings: z
      .boolean()
      .optional()
      .describe("one matrix for input and output embeddings; preset true"),
    bias: z.boolean().optional().describe("gpt2 only: whether products and norms have biases; preset true"),
    dropout: share
      .optional()
      .describe("share of attention weights, block outputs and embeddings that training drops; preset 0"),
    attn_pdrop: share.optional().describe("of attention weights alone; takes memory for all of them"),
    resid_pdrop: share.optional().describe("of what attention and MLP add, alone"),
    embd_pdrop: share.optional().describe("of embeddings alone"),
    initializer_range: positive.optional().describe("standard deviation of the first weights; preset 0.02"),
  })
  .prefault({})
  .describe("the model to train");

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
    warmup_steps: natural.default(100).describe("updates over which the rate rises"),
    schedule: z.enum(SCHEDULE_NAMES).default("cosine").describe("how the rate changes"),
    weight_decay: z.number().min(0).default(0.1).describe("AdamW's decay of matrices; vectors have none"),
    betas: z
      .tuple([share, share])
      .default([0.9, 0.95])
      .describe("AdamW's memory of the mean and of the square"),
    eps: positive.default(1e-8).describe("AdamW's epsilon"),
    max_grad_norm: z.number().min(0).default(1).describe("gradients are scaled down to this norm; 0 never"),
    seed: natural.default(0).describe("decides first weights, order of the data and samples"),
    compute_dtype: z
      .enum(["f32", "f16"])
      .default("f32")
      .describe("f16: mixed precision, weights kept in f32; the adapter must have shader-f16"),
    loss_scale: lossScale,
  })
  .prefault({})
  .describe("how to train");

const evaluation = z
  .strictObject({
    every: natural.default(100).describe("updates between validation losses; 0 only at the end"),
    tokens: count
      .default(32768)
      .describe("tokens of one measurement, spread evenly over the held-out text; at the end all of it"),
  })
  .prefault({})
  .describe("the validation loss");

const sample = z
  .strictObject({
    every: natural.default(250).describe("updates between samples; 0 only at the end"),
    prompts: z.array(z.string()).default(["Once upon a time"]).describe("what the samples continue"),
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

/** Every setting with its default and one line of help (`describe`). Keys that it does not know are errors. */
export const pretrainSchema = z
  .strictObject({
    data,
    tokenizer,
    model,
    train,
    eval: evaluation,
    sample,
    checkpoint,
    out_dir: z
      .string()
      .min(1)
      .default("runs/pretrain")
      .describe("folder of the run; relative to where kiln starts"),
    resume: z
      .union([z.boolean(), z.string().min(1)])
      .default(false)
      .describe("go on from the newest checkpoint in out_dir, or from the named one, e.g. step-000250"),
  })
  .superRefine((config, context) => {
    const complain = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
    const { steps, epochs, warmup_steps, sequence_length, schedule } = config.train;
    if (steps !== undefined && epochs !== undefined)
      complain(["train", "epochs"], "give steps or epochs, not both");
    const { preset, config: file, init_from, max_position_embeddings } = config.model;
    if (file !== undefined && init_from !== undefined)
      complain(["model", "init_from"], "give it or model.config, not both");
    const isPreset = file === undefined && init_from === undefined;
    const longest = isPreset
      ? (max_position_embeddings ?? presets[preset].max_position_embeddings)
      : Infinity;
    if (sequence_length > longest) {
      const message = `${sequence_length} is longer than model.max_position_embeddings, which is ${longest}`;
      complain(["train", "sequence_length"], message);
    }
    const total = epochs === undefined ? (steps ?? 1000) : Infinity;
    if (warmup_steps > total && schedule !== "constant") {
      complain(["train", "warmup_steps"], `${warmup_steps} is more than the ${total} steps of the run`);
    }
  });

/** Checked settings; the paths in `data`, `tokenizer.path`, `model.config` and `model.init_from` are absolute. */
export type PretrainConfig = z.output<typeof pretrainSchema>;

/** One value given outside the file. `from` is what messages call it, e.g. `--set train.steps=5`. */
export interface Override {
  path: string[];
  value: unknown;
  from: string;
}

/** Reads the arguments of `--set`: `a.b=value`, the value in YAML. Throws a KilnError for one without `=`. */
export function parseOverrides(settings: readonly string[]): Override[] {
  return settings.map((text) => {
    const equals = text.indexOf("=");
    if (equals < 1) {
      throw new KilnError(`--set ${text}: expected name=value, for example --set train.steps=500`, {
        exitCode: 2,
      });
    }
    const path = text.slice(0, equals).trim().split(".");
    try {
      return { path, value: parse(text.slice(equals + 1)), from: `--set ${text}` };
    } catch {
      throw new KilnError(`--set ${text}: the value is not valid YAML; put it in quotes`, { exitCode: 2 });
    }
  });
}

/** Settings as read from a file, and the line on which a path stands there. */
interface Source {
  value: unknown;
  name: string;
  line(path: readonly PropertyKey[]): number | null;
}

/** Parses YAML or JSON (a subset of it). Throws a one-line KilnError with the line of a syntax error. */
function parseSource(text: string, name: string): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const problem = document.errors[0];
  if (problem !== undefined) {
    const reason = problem.message.split("\n")[0];
    throw new KilnError(`${name}:${lines.linePos(problem.pos[0]).line}: ${reason}`, {
      code: "config_invalid",
    });
  }
  const line = (path: readonly PropertyKey[]): number | null => {
    // The nearest enclosing value that stands in the file: a missing key is reported where its group is.
    for (let length = path.length; length > 0; length--) {
      const group = document.getIn(path.slice(0, length - 1), true) ?? document.contents;
      const pair = isMap(group) ? group.items.find(({ key }) => String(key) === path[length - 1]) : undefined;
      const node = pair?.key ?? document.getIn(path.slice(0, length), true);
      if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
    }
    return null;
  };
  return { value: document.toJS() ?? {}, name, line };
}

/** Sets `value` at `path`, making the groups on the way. */
function assign(target: Record<string, unknown>, { path, value, from }: Override): void {
  let group = target;
  for (const key of path.slice(0, -1)) {
    const inner = Object.hasOwn(group, key) ? group[key] : undefined;
    if (inner !== undefined && (typeof inner !== "object" || inner === null || Array.isArray(inner))) {
      throw new KilnError(`${from}: ${key} is not a group of keys`, { code: "config_invalid" });
    }
    const next = { ...inner };
    define(group, key, next);
    group = next;
  }
  define(group, path.at(-1)!, value);
}

/** An own property whatever the key: plain assignment to "__proto__" would change the prototype instead. */
function define(group: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(group, key, { value, enumerable: true, writable: true, configurable: true });
}

function startsWith(path: readonly PropertyKey[], prefix: readonly string[]): boolean {
  return prefix.every((key, i) => path[i] === key);
}

/** Settings as they stand somewhere, without defaults. */
type Given = Record<string, unknown>;

/**
 * Checks the text of a config file (YAML or JSON) with later values over it. The first problem is thrown as a one-line
 * KilnError that names the file and line, or the flag, that it came from. A value of null is as if it were not there.
 * Relative inputs count from the file's folder, inputs given in overrides from the current folder. `below` are settings
 * that hold where neither says anything.
 */
export function parsePretrainConfig(
  text: string,
  name: string,
  overrides: readonly Override[] = [],
  below: Given = {},
): PretrainConfig {
  const source = parseSource(text, name);
  const merged = merge(below, override(source, overrides));
  const overrideOf = (path: readonly PropertyKey[]) => overrides.findLast((o) => startsWith(path, o.path));
  const config = parseWith(pretrainSchema, merged, (path) => {
    const override = overrideOf(path);
    if (override !== undefined) return override.from;
    const line = source.line(path);
    return line === null ? name : `${name}:${line}`;
  });
  const absolute = (key: string[], path: string) => resolve(overrideOf(key) ? "." : dirname(name), path);
  const { data, tokenizer, model } = config;
  for (const key of ["path", "validation_path"] as const) {
    data[key] &&= data[key].map((path) => absolute(["data", key], path));
  }
  if (tokenizer.path) tokenizer.path = absolute(["tokenizer", "path"], tokenizer.path);
  if (model.config) model.config = absolute(["model", "config"], model.config);
  if (model.init_from) model.init_from = absolute(["model", "init_from"], model.init_from);
  return config;
}

/** What a file says, with the overrides in it. */
function override(source: Source, overrides: readonly Override[]): Given {
  if (typeof source.value !== "object" || source.value === null || Array.isArray(source.value)) {
    throw new KilnError(`${source.name}: expected keys like "train:" with values under them`, {
      code: "config_invalid",
    });
  }
  const given = structuredClone(source.value) as Given;
  for (const override of overrides) assign(given, override);
  return given;
}

function isGroup(value: unknown): value is Given {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `above` over `below`, group by group; a null takes the value below away. */
function merge(below: Given, above: Given): Given {
  const out = { ...below };
  for (const [key, value] of Object.entries(above)) {
    const under = Object.hasOwn(out, key) ? out[key] : undefined;
    if (value === null) delete out[key];
    else define(out, key, isGroup(value) ? merge(isGroup(under) ? under : {}, value) : value);
  }
  return out;
}

/**
 * Reads a config file, or only defaults where `path` is null, with overrides on top. With `resume` the settings are those
 * of the run in `out_dir`, and overrides are changes of them; the file may say something else about what does not decide
 * numbers (eval, sample, checkpoint), everything else must agree. Throws a one-line KilnError otherwise.
 */
export async function loadPretrainConfig(
  path: string | null,
  overrides: readonly Override[] = [],
): Promise<PretrainConfig> {
  const [text, name] = path === null ? ["{}", "the settings"] : [await readText(path), path];
  const source = parseSource(text, name);
  const { resume, out_dir = "runs/pretrain" } = override(source, overrides);
  const runFile = join(String(out_dir), "config.json");
  if (!resume || !existsSync(runFile)) return parsePretrainConfig(text, name, overrides);
  const run = knownIn(pretrainSchema, parseSource(await readText(runFile), runFile).value as Given);
  const { eval: evaluation, sample, checkpoint } = override(source, []);
  const free = JSON.stringify({ eval: evaluation, sample, checkpoint, out_dir, resume });
  const config = parsePretrainConfig(free, name, overrides, run);
  const origin = (run.model as Given | undefined)?.init_from;
  if (config.model.init_from !== origin) {
    throw new KilnError(
      `the run in ${out_dir} did not start from ${config.model.init_from}; leave --init-from out to go on with it, or give another --out`,
      { code: "settings_differ" },
    );
  }
  const [has, asked] = [config, parsePretrainConfig(text, name, overrides, run)].map(
    (all) => new Map(leaves(all).map(({ path, value }) => [path.join("."), JSON.stringify(value)])),
  ) as [Map<string, string>, Map<string, string>];
  const differing = [...new Set([...asked.keys(), ...has.keys()])].filter((k) => asked.get(k) !== has.get(k));
  if (differing.length > 0) {
    const says = (values: Map<string, string>, key: string) => values.get(key) ?? "null";
    const list = differing.map((key) => `${key} ${says(asked, key)} (the run: ${says(has, key)})`);
    throw new KilnError(
      `${name} differs from the run in ${out_dir}: ${list.join(", ")}; leave the file out to go on as before, ` +
        `or name each change, e.g. --set ${differing[0]}=${says(asked, differing[0])}`,
      { code: "settings_differ" },
    );
  }
  return config;
}

/** The part of `value` that the schema knows: a run of an older version may have settings that are no more. */
function knownIn(schema: z.ZodType, value: Given): Given {
  const shape = (unwrap(schema) as { shape?: Record<string, z.ZodType> }).shape;
  if (shape === undefined) return value;
  const entries = Object.entries(value).filter(([key]) => Object.hasOwn(shape, key));
  return Object.fromEntries(
    entries.map(([key, inner]) => [key, isGroup(inner) ? knownIn(shape[key], inner) : inner]),
  );
}

/** Every value inside groups of keys, with where it stands. */
export function leaves(value: object, prefix: string[] = []): { path: string[]; value: unknown }[] {
  return Object.entries(value).flatMap(([key, inner]) => {
    const path = [...prefix, key];
    if (isGroup(inner)) return leaves(inner, path);
    return inner === undefined ? [] : [{ path, value: inner }];
  });
}

/** One setting as the help shows it; `default` is JSON, or empty where the setting has none. */
export interface Setting {
  name: string;
  default: string;
  description: string;
}

/** All settings in schema order, groups before their keys. */
export function describeSettings(schema: z.ZodType = pretrainSchema, prefix = ""): Setting[] {
  const shape = (unwrap(schema) as { shape?: Record<string, z.ZodType> }).shape ?? {};
  return Object.entries(shape).flatMap(([key, field]) => {
    const name = `${prefix}${key}`;
    const inner = describeSettings(field, `${name}.`);
    const value = inner.length > 0 ? undefined : field.safeParse(undefined).data;
    const setting = { name, default: JSON.stringify(value) ?? "", description: field.description ?? "" };
    return [setting, ...inner];
  });
}
