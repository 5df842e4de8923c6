import { readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { isNode, LineCounter, parseDocument } from "yaml";
import { z } from "zod";
import { KilnError } from "../../../core/errors.ts";
import { environmentVariable } from "../../../core/platform/environment.ts";
import { configError, parseWith } from "../../../models/formats/validation.ts";
import { priceSchema } from "./prices.ts";

const name = z.string().min(1).max(200);
const variable = z.string().regex(/^[A-Za-z_]\w*$/, "expected the name of an environment variable");

const model = z.strictObject({
  model: name.optional().describe("as the provider calls it; default: the same name"),
  task: z.enum(["chat", "text-classification", "fill-mask"]).default("chat"),
  context_length: z.int().min(16).default(8192).describe("tokens of prompt and answer"),
  fallback: z.array(name).default([]).describe("who answers, in order, where it cannot"),
  prices: z.array(priceSchema).default([]),
});

const bases = {
  openai: "https://api.openai.com/v1",
  "hf-inference": "https://router.huggingface.co/v1",
  ollama: "http://127.0.0.1:11434",
};

const provider = z
  .strictObject({
    dialect: z.enum(["openai", "hf-inference", "ollama"]),
    base_url: z
      .url({ protocol: /^https?$/, error: "expected an address with http:// or https://" })
      .optional(),
    key_env: variable.optional(),
    key_file: z.string().min(1).optional().describe("a file that nobody else can read (mode 0600)"),
    allow_private: z.boolean().default(false),
    prefill: z
      .boolean()
      .default(false)
      .describe("whether it goes on writing a last message of the assistant"),
    rpm: z.int().min(1).optional(),
    tpm: z.int().min(1).optional(),
    models: z.record(name, model),
  })
  .superRefine(({ dialect, base_url = bases[dialect], allow_private, key_env, key_file }, context) => {
    const bad = (path: string, message: string) =>
      context.addIssue({ code: "custom", path: [path], message });
    const url = new URL(base_url);
    if (url.username !== "" || url.password !== "" || url.search !== "")
      bad("base_url", "an address holds no key: give key_env or key_file");
    if (url.protocol === "http:" && !allow_private)
      bad(
        "base_url",
        "http:// is for addresses of this machine or its network: use https://, or allow_private: true",
      );
    if (key_env !== undefined && key_file !== undefined)
      bad("key_file", "give key_env or key_file, not both");
  });

/** Where a provider answers. */
export const baseOf = ({ dialect, base_url = bases[dialect] }: ProviderSettings): URL =>
  new URL(base_url.replace(/\/*$/, "/"));

const ensemble = z.strictObject({
  members: z.array(name).min(1),
  n: z.int().min(1).max(32).optional().describe("answers to choose from; default: 3, or one of each member"),
  choose: z.enum(["mbr", "rerank", "vote"]).default("mbr"),
  scorer: name
    .optional()
    .describe("the local model whose log probabilities rank; default: the first member that is local"),
});

const classifiers = z.strictObject({
  members: z.array(name).min(2),
  vote: z.enum(["soft", "hard", "chain"]).default("soft"),
  tau: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .describe("of a chain: probability below which the next one is asked"),
  fitted: z
    .array(z.strictObject({ temperature: z.number().positive(), nll: z.number().min(0) }))
    .optional()
    .describe("of each member, as kiln route fit prints them"),
});

const rule = z
  .strictObject({
    to: name,
    language: z
      .string()
      .regex(/^[a-z]{3}$/, "expected three letters such as eng (ISO 639-3)")
      .optional(),
    contains_code: z.boolean().optional(),
    needs_documents: z
      .boolean()
      .optional()
      .describe("whether passages of the user's documents go with the question"),
    label: z.strictObject({ classifier: name, is: z.string() }).optional(),
  })
  .refine(
    ({ to: _, ...conditions }) => Object.keys(conditions).length > 0,
    "a rule needs a condition beside to",
  );

const route = z.strictObject({
  chain: z.array(name).min(1).describe("the cheapest first"),
  tau: z.number().min(0).max(1).default(0.5).describe("confidence below which the next one answers"),
  rules: z.array(rule).default([]),
});

const schema = z
  .strictObject({
    providers: z
      .record(z.string().regex(/^[\w.-]{1,60}$/, "expected letters, digits and . _ -"), provider)
      .default({}),
    ensembles: z.record(name, ensemble).default({}),
    classifiers: z.record(name, classifiers).default({}),
    routes: z.record(name, route).default({}),
    budgets: z
      .strictObject({
        microusd_per_user_day: z.int().min(0).optional(),
        tokens_per_user_day: z.int().min(0).optional(),
      })
      .default({}),
  })
  .describe("who answers besides the models that are served");

export type ProvidersConfig = z.output<typeof schema>;
export type ProviderSettings = z.output<typeof provider>;

/** The settings of a file. @throws KilnError with the line of what is wrong, and for a name that comes twice. */
export function readProviders(file: string): ProvidersConfig {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new KilnError(`${file} cannot be read: give the YAML file of docs/providers.md`, {
      exitCode: 2,
      cause,
    });
  }
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: false });
  const [problem] = document.errors;
  const line = (offset: number) => lineCounter.linePos(offset).line;
  if (problem !== undefined)
    throw configError(`${file}:${line(problem.pos[0])}: ${problem.message.split("\n")[0]}`);
  const origin = (path: readonly PropertyKey[]) => {
    for (let length = path.length; length > 0; length--) {
      const node = document.getIn(path.slice(0, length), true);
      if (isNode(node) && node.range) return `${file}:${line(node.range[0])}`;
    }
    return file;
  };
  const config = parseWith(schema, document.toJS() ?? {}, origin);
  const names = [
    ...Object.values(config.providers).flatMap(({ models }) => Object.keys(models)),
    ...[config.ensembles, config.classifiers, config.routes].flatMap(Object.keys),
  ];
  const twice = names.find((one, i) => names.indexOf(one) !== i);
  if (twice !== undefined)
    throw configError(
      `${file}: two models would be called ${twice}: rename one (model: keeps the provider's name)`,
    );
  for (const settings of Object.values(config.providers))
    if (settings.key_file !== undefined) settings.key_file = resolve(dirname(file), settings.key_file);
  return config;
}

/** The key of a provider; null: it is not set, or there is none. @throws KilnError for a file that others may read. */
export function keyOf(provider: string, { key_env, key_file }: ProviderSettings): string | null {
  const key = key_file === undefined ? environmentVariable(key_env ?? "") : keyIn(provider, key_file);
  if (key === undefined || key.trim() === "") return null;
  if (/^[\x21-\x7e]+$/.test(key.trim())) return key.trim();
  throw new KilnError(
    `the key of provider ${provider} holds what no header can carry: it is visible ASCII characters`,
  );
}

function keyIn(provider: string, file: string): string {
  try {
    const { mode } = statSync(file);
    if (process.platform !== "win32" && (mode & 0o077) !== 0)
      throw new KilnError(`others can read the key file of provider ${provider}: run chmod 600 ${file}`);
    return readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof KilnError) throw cause;
    throw new KilnError(`the key file of provider ${provider} cannot be read: ${file}`, { cause });
  }
}
