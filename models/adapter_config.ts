import { z } from "zod";
import { rate, refusal } from "./config.ts";
import { parseWith } from "./formats/validation.ts";

const names = z.union([z.string(), z.array(z.string())]).nullish();
const rank = z.int().min(1).max(65536);
/** PEFT's settings that change what an adapter computes, and that kiln does not have: what they must be. */
const refused = {
  bias: [undefined, null, "none"],
  lora_bias: [undefined, null, false],
  layers_to_transform: [undefined, null],
  layer_replication: [undefined, null],
  target_parameters: [undefined, null],
  trainable_token_indices: [undefined, null],
  alora_invocation_tokens: [undefined, null],
  arrow_config: [undefined, null],
  use_qalora: [undefined, null, false],
  use_bdlora: [undefined, null, false],
  // The others change the base too.
  init_lora_weights: [undefined, null, true, false, "gaussian", "orthogonal"],
} satisfies Record<string, unknown[]>;

const schema = z.object({
  peft_type: z.literal("LORA").default("LORA"),
  task_type: z.string().nullish(),
  base_model_name_or_path: z.string().nullish(),
  r: rank.default(8),
  lora_alpha: z.number().default(8),
  lora_dropout: rate.default(0),
  target_modules: names,
  exclude_modules: names,
  modules_to_save: z.array(z.string()).nullish(),
  rank_pattern: z.record(z.string(), rank).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  use_rslora: z.boolean().default(false),
  use_dora: z.boolean().default(false),
});

/** Names of modules: a list of last parts of names, or a regular expression for whole names. */
export type ModuleNames = string | string[];

/** A LoRA adapter, in the words of PEFT's adapter_config.json. */
export interface AdapterConfig {
  task_type: string | null;
  base_model_name_or_path: string | null;
  /** Rank, except where `rank_pattern` says otherwise: a regular expression for the end of a module's name to its rank. */
  r: number;
  /** The change of a matrix is multiplied by this over the rank, except where `alpha_pattern` says otherwise. */
  lora_alpha: number;
  lora_dropout: number;
  /** Null: those that PEFT takes for the architecture. */
  target_modules: ModuleNames | null;
  exclude_modules: ModuleNames | null;
  /** Ends of names of modules that are trained whole, as a new head. Null: the head of a classifier, none of another model. */
  modules_to_save: string[] | null;
  rank_pattern: Record<string, number>;
  alpha_pattern: Record<string, number>;
  use_rslora: boolean;
  use_dora: boolean;
}

/**
 * Checks the content of an adapter_config.json; keys that are not known are ignored, as PEFT does. Throws a one-line
 * KilnError for a wrong value, another kind of adapter, and settings that kiln does not compute.
 */
export function parseAdapterConfig(value: unknown, source = "adapter_config.json"): AdapterConfig {
  const { peft_type: _, ...given } = parseWith(schema, value, () => source);
  for (const [key, allowed] of Object.entries(refused)) {
    const found = (value as Record<string, unknown>)[key];
    if (!(allowed as unknown[]).includes(found))
      throw refusal(source)(`${key} is ${JSON.stringify(found)}, which kiln does not compute`);
  }
  return {
    ...given,
    task_type: given.task_type ?? null,
    base_model_name_or_path: given.base_model_name_or_path ?? null,
    target_modules: given.target_modules ?? null,
    exclude_modules: given.exclude_modules ?? null,
    modules_to_save: given.modules_to_save ?? null,
    rank_pattern: given.rank_pattern ?? {},
    alpha_pattern: given.alpha_pattern ?? {},
  };
}

const fits = (module: string, pattern: string, before = ""): boolean => {
  try {
    return new RegExp(`^${before}(?:${pattern})$`).test(module);
  } catch {
    throw refusal("adapter_config.json")(`${JSON.stringify(pattern)} is not a regular expression`);
  }
};

/** Whether a module is among those named, by PEFT's rules. */
export function isNamed(module: string, names: ModuleNames): boolean {
  if (typeof names === "string") return fits(module, names);
  return names.some((name) => module === name || module.endsWith(`.${name}`));
}

/** The value of the first pattern that fits the end of a module's name, by PEFT's rules. */
export function patternValue(module: string, patterns: Record<string, number>, otherwise: number): number {
  const found = Object.keys(patterns).find((pattern) => fits(module, pattern, "(?:.*\\.)?"));
  return found === undefined ? otherwise : patterns[found];
}

/** The architectures' modules that PEFT changes by default; for DistilBERT, where it has none, those that it changes of BERT. */
const defaultTargets: Record<string, string[]> = {
  llama: ["q_proj", "v_proj"],
  gpt2: ["c_attn"],
  bert: ["query", "value"],
  roberta: ["query", "value"],
  distilbert: ["q_lin", "v_lin"],
  "deberta-v2": ["query_proj", "value_proj"],
};

const tasks: [suffix: RegExp, task: string, head: string[]][] = [
  [/ForSequenceClassification$/, "SEQ_CLS", ["classifier", "score"]],
  [/ForTokenClassification$/, "TOKEN_CLS", ["classifier", "score"]],
  [/ForQuestionAnswering$/, "QUESTION_ANS", ["qa_outputs"]],
  [/ForCausalLM$|LMHeadModel$/, "CAUSAL_LM", []],
];

/** What follows from a model where an adapter's config leaves it open; `className` is the model's in transformers. */
export function withDefaults(config: AdapterConfig, modelType: string, className: string): AdapterConfig {
  const [, task = null, head = []] = tasks.find(([suffix]) => suffix.test(className)) ?? [];
  const target_modules = config.target_modules ?? defaultTargets[modelType] ?? null;
  if (target_modules === null || target_modules.length === 0)
    throw refusal("adapter_config.json")(`target_modules is missing, and ${modelType} has none by default`);
  return {
    ...config,
    target_modules,
    task_type: config.task_type ?? task,
    modules_to_save: config.modules_to_save ?? (head.length > 0 ? head : null),
  };
}
