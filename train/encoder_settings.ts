import { join } from "node:path";
import { z } from "zod";
import { currentDirectory, readJson } from "../core/platform/files.ts";
import { createModel, headedConfig, modelTypeOf, parseModelConfig } from "../models/architectures.ts";
import type { Encoder, EncoderInput } from "../models/encoder.ts";
import type { EncoderConfig } from "../models/encoder_config.ts";
import { configError } from "../models/formats/validation.ts";
import type { LabelKeys, Task } from "../models/labels.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { addTrainedAdapter, concludeAdapter, headModules } from "./adapters.ts";
import { assertVocabulary, fillModel, shapeSettings } from "./model_settings.ts";
import type { RecipeContext } from "./recipe.ts";
import type { AdapterSettings } from "./settings/adapter.ts";
import { count, positive, share } from "./settings/numbers.ts";
import { checkTrain, type RunSettings } from "./settings/run.ts";

/** What recipes that train an encoder share: its settings, and from them to a tokenizer and a model. */

const size = count.optional();

const encoder = z
  .strictObject({
    init_from: z
      .string()
      .optional()
      .describe("start from this model folder or run: its shape, tokenizer and labels; else from scratch"),
    hidden_size: size.describe("from scratch, a DistilBERT: width; 128 by default"),
    num_hidden_layers: size.describe("number of blocks; 2 by default"),
    num_attention_heads: size.describe("4 by default"),
    intermediate_size: size.describe("width inside the MLP; by default 4 of hidden_size"),
    max_position_embeddings: size.describe("longest text in tokens; by default train.sequence_length"),
    initializer_range: positive
      .optional()
      .describe("standard deviation of the first weights; 0.02 by default"),
    dropout: share
      .optional()
      .describe("share of everything below, and of what the head reads, that training drops"),
    attn_pdrop: share.optional().describe("of attention weights alone"),
    resid_pdrop: share.optional().describe("of block outputs and embeddings alone"),
  })
  .prefault({})
  .describe("the model to train");

const encoderTokenizer = z
  .strictObject({
    path: z
      .string()
      .optional()
      .describe("an existing tokenizer.json or model folder; relative to the config file"),
    vocab_size: z
      .int()
      .min(260)
      .max(65536)
      .default(4096)
      .describe("size of the byte-level BPE made of the texts"),
    lowercase: z.boolean().default(false).describe("make it of lower-case text, and read all text so"),
  })
  .prefault({})
  .describe("how text becomes tokens, from scratch");

type Settings = {
  model: z.output<typeof encoder>;
  tokenizer: z.output<typeof encoderTokenizer>;
  train: RunSettings["train"];
};

/** Settings that a model to start from decides itself. */
const shape = /_size$|^num_|^max_position|^initializer/;

/** Adds an issue where settings contradict each other. */
function checkEncoder(
  { model, adapter }: Pick<Settings, "model"> & { adapter?: AdapterSettings },
  context: z.RefinementCtx,
): void {
  const refuse = (message: string) =>
    context.addIssue({ code: "custom", path: ["adapter", "kind"], message });
  if (adapter?.kind === "qlora") refuse("qlora is for decoders; of an encoder train lora, or none");
  else if (adapter?.kind === "lora" && model.init_from === undefined)
    refuse("an adapter changes a model that there is: name it in model.init_from, or train none");
  const asked = Object.keys(model).find((key) => shape.test(key));
  if (model.init_from === undefined || asked === undefined) return;
  const message = "the model in model.init_from has its own; leave it out";
  context.addIssue({ code: "custom", path: ["model", asked], message });
}

/** The schema of a recipe that trains an encoder: its data, the model and tokenizer, and its own settings. */
export const encoderRecipe = <Data extends z.ZodType, Own extends z.ZodRawShape>(data: Data, own: Own) =>
  z.preprocess(
    withEncoderDefaults,
    z
      .strictObject({ data, model: encoder, tokenizer: encoderTokenizer, ...own })
      .superRefine((config, context) => {
        checkTrain(config as never, context);
        checkEncoder(config as never, context);
      }),
  );

/**
 * What of a recipe's settings depends on where its model comes from, filled in: 5e-5 over 3 epochs fine-tune a model (Devlin
 * et al. 2018), an adapter of it takes ten times that rate, and 1e-3 over 10 train one from scratch.
 */
function withEncoderDefaults(given: unknown): unknown {
  const { model, train, ...others } = given as Partial<Settings> & { adapter?: Partial<AdapterSettings> };
  const tuned = others.adapter?.kind === "lora" ? 5e-4 : 5e-5;
  const [learning_rate, epochs] = model?.init_from ? [tuned, 3] : [1e-3, 10];
  const length = train?.steps === undefined ? { epochs } : {};
  return { ...others, ...(model && { model }), train: { batch_size: 4, learning_rate, ...length, ...train } };
}

/** The tokenizer of the model in `origin`, or that of the settings, or a new one for the texts. */
export async function encoderTokenizerFor(
  { tokenizer: { path, vocab_size, lowercase }, train }: Settings,
  origin: string | null,
  texts: Iterable<string>,
  say: RecipeContext["say"],
): Promise<Tokenizer> {
  if (origin ?? path) return Tokenizer.load(origin ?? path!);
  const special_tokens = ["[PAD]", "[CLS]", "[MASK]"];
  const [pad_token, cls_token, mask_token] = special_tokens;
  const read = lowercase ? Array.from(texts, (text) => text.toLowerCase()) : texts;
  const json = trainBpe(read, { vocab_size, special_tokens, bos_token: cls_token });
  for (const token of json.added_tokens) token.lstrip = token.content === mask_token; // its space is the word's
  if (lowercase) json.normalizer = { type: "Lowercase" };
  const model_max_length = train.sequence_length;
  const tokenizer = new Tokenizer(json, {
    tokenizer_config: { bos_token: cls_token, cls_token, pad_token, mask_token, model_max_length },
  });
  say(`tokenizer: ${tokenizer.vocabSize.toLocaleString("en")} tokens, byte-level BPE of the texts`);
  return tokenizer;
}

/** How many texts are encoded at once. */
const chunk = 1000;

/**
 * The token ids of texts, special tokens around them, cut to `longest` with the last special token kept; says how many were
 * cut. Names of special tokens in a text are plain text.
 */
export async function encodeTexts(
  tokenizer: Tokenizer,
  texts: readonly string[],
  longest: number,
  say: RecipeContext["say"],
): Promise<number[][]> {
  const encoded: number[][] = [];
  for (let i = 0; i < texts.length; i += chunk)
    encoded.push(...(await tokenizer.encodeBatch(texts.slice(i, i + chunk), { parseSpecialTokens: false })));
  const long = encoded.filter((ids) => ids.length > longest);
  if (long.length > 0) {
    const most = long.reduce((max, ids) => Math.max(max, ids.length), 0);
    say(
      `${long.length} of ${texts.length} texts are longer than ${longest} tokens (the longest has ${most}): only the first ${longest} of them count; raise train.sequence_length where the model has more positions`,
    );
  }
  return encoded.map((ids) => {
    if (ids.length <= longest) return ids;
    const last = ids.at(-1)!;
    return tokenizer.isSpecial(last) ? [...ids.slice(0, longest - 1), last] : ids.slice(0, longest);
  });
}

/** The encoder to train, with the head of `task` and `labels`: a new one or that in `origin`, whose head may be another. */
export async function openEncoder(
  { model: settings, train }: Settings,
  tokenizer: Tokenizer,
  head: { task: Task; labels?: readonly string[]; problemType?: LabelKeys["problem_type"] },
  origin: string | null,
  context: RecipeContext,
): Promise<Encoder> {
  const path = origin ? join(await currentDirectory(origin), "config.json") : "the model settings";
  const base = origin ? ((await readJson(path)) as Record<string, unknown>) : { model_type: "distilbert" };
  const type = modelTypeOf(base, path);
  const { init_from: _, ...given } = settings;
  const { hidden_size = 128 } = given;
  const preset = {
    hidden_size,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 4 * hidden_size,
    max_position_embeddings: train.sequence_length,
  };
  const sizes = shapeSettings(origin ? given : { ...preset, ...given }, type);
  // GPT-2's classifier reads the last token that is no padding: programs that pad must know it.
  const pad_token_id = base.pad_token_id ?? tokenizer.padId ?? tokenizer.eosId;
  if (pad_token_id === null) {
    throw configError(
      `${path}: there is no padding token, which other programs need for batches; give pad_token in tokenizer_config.json`,
    );
  }
  // DistilBERT's rate in front of its head is not that of its blocks.
  const dropped = type === "distilbert" && given.dropout !== undefined;
  const rates = dropped ? { seq_classif_dropout: given.dropout } : {};
  const own = { vocab_size: tokenizer.vocabSize, ...base, ...sizes, ...rates, pad_token_id };
  const body = parseModelConfig(own, path);
  const config = headedConfig(body, head.task, head.labels, head.problemType, path) as EncoderConfig;
  assertVocabulary(tokenizer, config.vocab_size, path);
  const model: Encoder = createModel(config).computeIn(train.compute_dtype);
  const isNew = String((body as Partial<EncoderConfig>).architectures) !== String(config.architectures);
  await fillModel(model, train, origin, context, isNew);
  return model;
}

/**
 * `openEncoder` with an adapter, if one is trained; the head is then trained whole and saved with it. `conclude` is the end of
 * such a run (see `concludeAdapter`), null of another; `origin` must be the model to start from then, also on resuming.
 */
export async function openAdaptedEncoder(
  config: Settings & { adapter: AdapterSettings },
  tokenizer: Tokenizer,
  head: Parameters<typeof openEncoder>[2],
  origin: string | null,
  context: RecipeContext,
) {
  const { adapter, train } = config;
  if (adapter.kind === "none") {
    const model = await openEncoder(config, tokenizer, head, origin, context);
    return { model, added: null, conclude: null };
  }
  // The checkpoint of a run holds the adapter alone.
  const open = () => openEncoder(config, tokenizer, head, origin, { ...context, resumeFrom: null });
  const model = await open();
  const { say } = context;
  const options = { base: origin!, whole: headModules(model), seed: train.seed, say };
  const added = await addTrainedAdapter(model, adapter, options);
  model.computeIn(train.compute_dtype);
  const conclude = (outDir: string, probe: EncoderInput) => {
    const logits = (encoder: Encoder) => encoder.logits(probe);
    return concludeAdapter(model, tokenizer, { outDir, logits, reopen: open, say });
  };
  return { model, added, conclude };
}
