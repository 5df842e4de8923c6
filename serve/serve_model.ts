import { existsSync } from "node:fs";
import { basename, dirname } from "node:path";
import { definedOnly } from "../core/defined_only.ts";
import { KilnError, usageError } from "../core/errors.ts";
import { say, untilInterrupted } from "../core/platform/command_line.ts";
import { currentDirectory } from "../core/platform/files.ts";
import { resolveModel } from "../models/hub/resolve.ts";
import { parseReference, versionOfPath } from "../models/registry/names.ts";
import type { ComputeDtype } from "../nn/index.ts";
import { Administration } from "./administration.ts";
import type { ProvidersConfig } from "./app/providers/config.ts";
import { defaultCacheBytes } from "./engine/runner.ts";
import { assertCanListen } from "./listening.ts";
import { CacheBudget, cacheNeed, type LoadSettings, loadInto, type ModelSource } from "./loading.ts";
import { type AdapterSource, loadAdapterInto } from "./lora.ts";
import { ModelPool, type ModelTask, taskOf } from "./models.ts";
import type { EngineProcess } from "./process/engine_process.ts";
import { loaderInto } from "./process/loading.ts";
import { type RegisteredSource, RegistryFollower } from "./registry_follower.ts";

/** The options of `kiln serve`, as the command line gives them. */
export interface ServeFlags {
  port: number;
  host: string;
  apiKey?: string[];
  priorityKey?: string[];
  servedModelName?: string[];
  maxModelLen?: number;
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  cacheMib?: number;
  dtype?: ComputeDtype;
  strict?: boolean;
  metricsPrefix?: string;
  allowedHost?: string[];
  allowedOrigin?: string[];
  adminKey?: string;
  modelDir?: string[];
  loraModules?: AdapterSource[];
  maxLoras?: number;
  maxLoraRank?: number;
  providers?: string;
  /** Seconds. */
  shutdownTimeout?: number;
}

/** What a server begins with. */
export interface ServingPlan {
  readonly sources: readonly ModelSource[];
  readonly adapters: readonly AdapterSource[];
  /** Bytes of keys and values that each model uses at most. */
  readonly needs: readonly number[];
  readonly settings: LoadSettings;
  readonly flags: ServeFlags;
  /** Who answers besides the models. */
  readonly providers: ProvidersConfig | null;
}

/**
 * What to serve, from the arguments `PATH`, `NAME=PATH` and `NAME,ALIAS=PATH`. Refuses what cannot be served, before
 * anything is loaded. @throws KilnError.
 */
export async function planServing(given: readonly string[], flags: ServeFlags): Promise<ServingPlan> {
  const { maxNumSeqs = 1, maxNumBatchedTokens = maxNumSeqs } = flags;
  if (maxNumSeqs > maxNumBatchedTokens) {
    throw new KilnError(
      `a step holds a token of each answer, so --max-num-seqs (${maxNumSeqs}) can be at most ` +
        `--max-num-batched-tokens (${maxNumBatchedTokens}): lower the one or raise the other`,
    );
  }
  const sources: ModelSource[] = [];
  for (const argument of given) sources.push(await sourceOf(argument));
  const [first] = sources;
  const { servedModelName } = flags;
  if (servedModelName) {
    if (sources.length > 1)
      throw usageError("--served-model-name names one model: with several, give each as NAME=PATH");
    servedModelName.forEach(assertName);
    const [name, ...aliases] = servedModelName;
    sources[0] = isFollowing(first) ? { ...first, aliases: servedModelName } : { ...first, name, aliases };
  }
  const adapters: AdapterSource[] = [];
  for (const adapter of flags.loraModules ?? []) {
    assertName(adapter.name);
    adapters.push({ ...adapter, path: await resolveModel(adapter.path) });
  }
  const names = [...sources, ...adapters].flatMap((one) => [
    one.name,
    ...("aliases" in one ? one.aliases : []),
  ]);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new KilnError(`two models would be called ${twice}: give each a name of its own, as NAME=PATH`);
  const settings: LoadSettings = {
    dtype: flags.dtype ?? "f32",
    ...definedOnly({
      maxModelLen: flags.maxModelLen,
      maxSequences: flags.maxNumSeqs,
      maxBatchedTokens: flags.maxNumBatchedTokens,
      maxAdapters: flags.maxLoras,
      maxRank: flags.maxLoraRank,
    }),
  };
  const needs: number[] = [];
  for (const { path } of sources) needs.push(await cacheNeed(path, settings));
  for (const folder of flags.modelDir ?? []) await currentDirectory(folder);
  if (flags.modelDir && flags.adminKey === undefined)
    throw usageError("--model-dir is for models that are loaded later, which needs --admin-key KEY");
  const { providers: file } = flags;
  const providers =
    file === undefined ? null : (await import("./app/providers/config.ts")).readProviders(file);
  await assertCanListen(flags);
  return { sources, adapters, needs, settings, flags, providers };
}

const isFollowing = (source: ModelSource): source is RegisteredSource =>
  "follows" in source && source.follows !== null;

/** @throws KilnError for a name that clients, logs and shells would not take for one word. */
function assertName(name: string): void {
  if (/[\s\p{C}]/u.test(name))
    throw usageError(
      `${JSON.stringify(name)} is no name for a model: leave out spaces and control characters`,
    );
}

/** `PATH`, `NAME=PATH` or `NAME,ALIAS=PATH`; a path may hold `=` itself. */
async function sourceOf(argument: string): Promise<ModelSource | RegisteredSource> {
  const [, names, after] = (!existsSync(argument) && /^([^=/]*[^=]*?)=(.+)$/.exec(argument)) || [];
  if (names === undefined) {
    const path = await resolveModel(argument);
    // A pulled model's folder is called by its commit.
    const name = existsSync(argument) ? modelNameOf(path) : argument;
    return registered(argument, { name, aliases: [], path });
  }
  const [name, ...aliases] = names.split(",").map((part) => part.trim());
  if ([name, ...aliases].includes(""))
    throw usageError(`${argument} has an empty name: give NAME=PATH or NAME,ALIAS=PATH`);
  [name, ...aliases].forEach(assertName);
  return registered(after, { name, aliases, path: await resolveModel(after) });
}

/** A version that was asked for by an alias is called by its number; the names given are its as long as the alias is. */
function registered(given: string, source: ModelSource): ModelSource | RegisteredSource {
  const version = existsSync(given) ? null : versionOfPath(source.path);
  if (version === null) return source;
  const { name, version: wanted } = parseReference(given)!;
  if (typeof wanted === "number") return { ...source, version, follows: null };
  const aliases = [source.name, ...source.aliases];
  return { ...source, name: version, aliases, version, follows: `${name}@${wanted ?? "prod"}` };
}

export interface ServingOptions {
  /** Answer one request, which the server sends itself, and stop. */
  readonly once?: boolean | undefined;
  /** Where the models are; absent: in this process. */
  readonly engines?: EngineProcess;
}

/** Serves until a signal. @throws KilnError when the engines end and cannot be started again. */
export async function serveModels(
  { sources, adapters, needs, settings, flags, providers }: ServingPlan,
  { once = false, engines }: ServingOptions = {},
): Promise<void> {
  const load = engines ? loaderInto(engines) : loadInto;
  const { cacheMib, adminKey, modelDir: folders = [], shutdownTimeout: seconds } = flags;
  const models = new ModelPool(seconds === undefined ? {} : { limits: { drainMs: seconds * 1000 } });
  const budget = new CacheBudget(cacheMib ? cacheMib * 2 ** 20 : defaultCacheBytes);
  const names = sources.map(({ name }) => name);
  // A new version of a model can then be loaded beside the old one.
  budget.share(names, needs, adminKey !== undefined || sources.some(isFollowing) ? 1 : 0);
  const administration = new Administration({ models, settings, budget, folders, load });
  const follower = new RegistryFollower({ switcher: administration, say });
  const loading = (async () => {
    for (const source of sources) if ("version" in source) await follower.add(source as RegisteredSource);
    for (const source of sources) await load(models, source, settings, budget.of(source.name));
    for (const adapter of adapters) await loadAdapterInto(models, adapter);
  })();
  // Waited for below, at the latest.
  loading.catch(() => {});
  // Providers are held against the models; all else is read and made ready while these are loaded in their own process.
  if (providers) await loading;
  const { createServer } = await import("./server.ts");
  const { applicationHost } = await import("./app/index.ts");
  const answers = providers && {
    source: (await import("./app/providers/index.ts")).install(models, providers),
    budgets: providers.budgets,
  };
  const server = createServer({
    models,
    application: applicationHost(models, {
      ...answers,
      keepArms: (versions) => follower.keepArms(versions),
    }),
    administration,
    ...definedOnly({
      adminKey,
      apiKey: flags.apiKey,
      strict: flags.strict,
      metricsPrefix: flags.metricsPrefix,
      allowedHosts: [flags.host, ...(flags.allowedHost ?? [])],
      allowedOrigins: flags.allowedOrigin,
      priorityKeys: flags.priorityKey,
    }),
  });
  await loading;
  const url = await server.listen({ host: flags.host, port: flags.port });
  process.stdout.write(connectionHelp(url, models));
  if (once) {
    await askOnce(url, sources[0].name);
    await server.close();
    return follower.close();
  }
  const line = "\nfinishing the running answers; once more to stop at once";
  await untilInterrupted(line, async (signal) => {
    const following = follower.run();
    const interrupted = new Promise<null>((resolve) => signal.addEventListener("abort", () => resolve(null)));
    const failure = await Promise.race([interrupted, ...(engines ? [engines.gaveUp] : [])]);
    await follower.close();
    if (!failure) await models.leave();
    await server.close(...(failure ? [0] : []));
    await following;
    if (failure) throw failure;
  });
}

async function askOnce(url: string, model: string): Promise<void> {
  const body = JSON.stringify({
    model,
    prompt: "Once upon a time",
    max_tokens: 24,
    temperature: 0,
  });
  const answer = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}: ${await answer.text()}`);
  const { choices } = (await answer.json()) as { choices: { text: string }[] };
  process.stdout.write(`\nThe server answers: Once upon a time${choices[0].text}\n`);
}

/** The name of a model for clients: its own, or its run's where the folder is the `model` or `merged` of one. */
function modelNameOf(directory: string): string {
  const own = basename(directory).replace(/\.gguf$/i, "");
  return own === "model" || own === "merged" ? basename(dirname(directory)) || own : own;
}

/** What is served, and a command for each kind of model, ready to be pasted. */
function connectionHelp(url: string, models: ModelPool): string {
  const names = [...models].map(([name]) => name);
  const shown = new Set<string>();
  const commands = [...models].flatMap(([model, served]) => {
    const task = taskOf(served);
    if (shown.has(task)) return [];
    shown.add(task);
    const { path, body } = example[task];
    const json = JSON.stringify({ model, ...body });
    return `  curl ${url}${path} -H 'content-type: application/json' -d '${json}'\n`;
  });
  const writer = [...models].find(([, served]) => served.kind === "text")?.[0];
  const client = `
  import OpenAI from "openai";
  const client = new OpenAI({ baseURL: "${url}/v1", apiKey: "none" });
  const answer = await client.completions.create({ model: "${writer}", prompt: "Once upon a time", max_tokens: 64 });
`;
  return `
Serving ${names.join(", ")} at ${url}
Chat, models and settings: open ${url}/ in a browser

${commands.join("")}${writer === undefined ? "" : client}
Ctrl-C stops it.
`;
}

const texts = ["a text", "another"];
/** A request for each kind of model. */
const example: Record<ModelTask, { path: string; body: object }> = {
  generate: { path: "/v1/completions", body: { prompt: "Once upon a time", max_tokens: 64 } },
  embed: { path: "/v1/embeddings", body: { input: texts } },
  classify: { path: "/classify", body: { input: texts } },
  score: { path: "/rerank", body: { query: "a question", documents: texts } },
};
