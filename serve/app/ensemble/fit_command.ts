import { KilnError, usageError } from "../../../core/errors.ts";
import { say } from "../../../core/platform/command_line.ts";
import { isObject } from "../../../core/platform/files.ts";
import { ProgressLine } from "../../../core/platform/progress_line.ts";
import { textLines } from "../../../core/platform/text_lines.ts";
import { openOnce } from "../../../kernels/index.ts";
import { resolveModel } from "../../../models/hub/resolve.ts";
import { defaultCacheBytes } from "../../engine/runner.ts";
import { CacheBudget, cacheNeed, type LoadSettings, loadInto } from "../../loading.ts";
import { ModelPool } from "../../models.ts";
import { type ProvidersConfig, readProviders } from "../providers/config.ts";
import { install } from "../providers/index.ts";
import { classifiersNamed, probabilitiesOf } from "./classifiers.ts";
import {
  askChain,
  chainOfClassifiers,
  fitMembers,
  fitVote,
  type Judged,
  type Question,
  type VoteReport,
} from "./fit.ts";
import { type CurvePoint, fitThreshold, type RouteReport } from "./threshold.ts";

export interface FitFlags {
  providers: string;
  data: string;
  maxTokens: number;
  json?: boolean;
}

interface FitReport {
  readonly name: string;
  readonly members: readonly string[];
  /** Of a route, or of classifiers that are asked one after the other. */
  readonly threshold?: RouteReport;
  /** Of classifiers that vote. */
  readonly vote?: VoteReport;
  /** What the settings of classifiers take. */
  readonly fitted?: readonly { temperature: number; nll: number }[];
}

const FEWEST = 20;

/** `kiln route fit`. @throws KilnError for names, models and data that cannot be used. */
export async function fitCommand(name: string, models: string[], flags: FitFlags): Promise<void> {
  const config = readProviders(flags.providers);
  const { routes, classifiers } = config;
  const known = [...Object.keys(routes), ...Object.keys(classifiers)];
  if (!known.includes(name))
    throw usageError(
      `${flags.providers} has no route and no classifiers ${name}: it has ${known.join(", ") || "none"}`,
    );
  const rows = await rowsIn(flags.data);
  await openOnce();
  const pool = await loaded(models);
  try {
    const report = classifiers[name]
      ? await fitClassifiers(pool, name, classifiers[name], rows)
      : await fitRoute(pool, name, config, rows, flags.maxTokens);
    process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : `${tableOf(report)}\n`);
  } finally {
    await pool.drain(0);
  }
}

/** The models that the chain or the members name, in this process. */
async function loaded(models: readonly string[]): Promise<ModelPool> {
  const pool = new ModelPool();
  const settings: LoadSettings = { dtype: "f32", maxSequences: 16 };
  const sources: { name: string; aliases: string[]; path: string }[] = [];
  for (const given of models) {
    const [, name, path] = /^([^=/]+)=(.+)$/.exec(given) ?? [];
    if (name === undefined) throw usageError(`${given}: give each model as NAME=MODEL`);
    sources.push({ name, aliases: [], path: await resolveModel(path!) });
  }
  const needs: number[] = [];
  for (const { path } of sources) needs.push(await cacheNeed(path, settings));
  const budget = new CacheBudget(defaultCacheBytes);
  budget.share(
    sources.map(({ name }) => name),
    needs,
    0,
  );
  for (const source of sources) await loadInto(pool, source, settings, budget.of(source.name));
  return pool;
}

/** The JSON objects of a file's lines. */
async function rowsIn(file: string): Promise<Record<string, unknown>[]> {
  const rows: Record<string, unknown>[] = [];
  for await (const line of textLines(file)) {
    let row: unknown = null;
    try {
      row = JSON.parse(line);
    } catch {}
    if (!isObject(row)) throw new KilnError(`${file}: row ${rows.length + 1} is no JSON object`);
    rows.push(row);
  }
  if (rows.length < FEWEST)
    throw new KilnError(
      `${file} has ${rows.length} rows: a fit needs ${FEWEST} at least, of which every other one checks it`,
    );
  return rows;
}

/** A row's member that must be a text. */
function textOf(row: Record<string, unknown>, place: number, key: string): string {
  const value = row[key];
  if (typeof value === "string" && value !== "") return value;
  throw new KilnError(`row ${place + 1} of the data has no ${key}: it must be a text`);
}

/** What the models of one route need of the settings: each is asked itself, without those that answer for it. */
function alone(config: ProvidersConfig, chain: readonly string[]): ProvidersConfig {
  const { providers, ensembles } = config;
  const own = Object.entries(providers).map(([provider, settings]) => {
    const models = Object.entries(settings.models).map(([name, model]) => [name, { ...model, fallback: [] }]);
    return [provider, { ...settings, models: Object.fromEntries(models) }];
  });
  return {
    ...{ ...config, routes: {}, classifiers: {}, providers: Object.fromEntries(own) },
    ensembles: Object.fromEntries(Object.entries(ensembles).filter(([name]) => chain.includes(name))),
  };
}

async function fitRoute(
  pool: ModelPool,
  name: string,
  config: ProvidersConfig,
  rows: readonly Record<string, unknown>[],
  maxTokens: number,
): Promise<FitReport> {
  const { chain } = config.routes[name]!;
  if (chain.length < 2) throw new KilnError(`routes.${name} has one model: there is nothing to choose`);
  const source = install(pool, alone(config, chain));
  const questions = rows.map(
    (row, i): Question => ({
      turns: [{ role: "user", content: textOf(row, i, "prompt") }],
      answer: textOf(row, i, "answer"),
    }),
  );
  const line = new ProgressLine();
  const progress = (share: number) => line.update(share, "asking");
  const asked = await askChain(source, chain, questions, { maxTokens, progress }).finally(() => {
    line.end();
    source.close();
  });
  const silent = chain.slice(0, -1).find((_, i) => asked.every((row) => row[i]!.confidence === null));
  if (silent !== undefined) say(`warning: ${silent} tells no log probabilities: it counts as sure`);
  return { name, members: chain, threshold: fitThreshold(asked) };
}

async function fitClassifiers(
  pool: ModelPool,
  name: string,
  { members, vote }: ProvidersConfig["classifiers"][string],
  rows: readonly Record<string, unknown>[],
): Promise<FitReport> {
  const frontends = classifiersNamed(pool, name, members);
  const { labels } = frontends[0]!.task;
  const inputs = rows.map((row, i) => textOf(row, i, "text"));
  const truth = rows.map((row, i) => {
    const label = labels.indexOf(textOf(row, i, "label"));
    if (label >= 0) return label;
    throw new KilnError(
      `row ${i + 1} of the data has the label ${row.label}: the classifiers tell ${labels.join(", ")}`,
    );
  });
  const logits: (readonly Float32Array[])[] = [];
  for (const frontend of frontends)
    logits.push(await (await frontend.start({ inputs, client: "fit", truncate: -1 })).done);
  const probabilities = inputs.map((_, i) =>
    frontends.map((frontend, member) => probabilitiesOf(labels, frontend, logits[member]![i]!)),
  );
  const judged: Judged = { members, labels, probabilities, truth };
  const fitted = fitMembers(judged);
  if (vote === "chain")
    return { name, members, fitted, threshold: fitThreshold(chainOfClassifiers(judged, fitted)) };
  return { name, members, fitted, vote: fitVote(judged, vote) };
}

const percent = (share: number) => `${(100 * share).toFixed(1)}%`.padStart(8);
const number = (value: number) => value.toFixed(4).padStart(8);

function tableOf({ name, members, threshold, vote, fitted }: FitReport): string {
  return [
    `${name}: ${members.join(", ")}`,
    ...(threshold ? thresholdLines(threshold, members) : []),
    ...(vote ? voteLines(vote) : []),
    ...(fitted
      ? [
          "",
          "fitted:",
          ...fitted.map(
            ({ temperature, nll }) =>
              `  - { temperature: ${temperature.toFixed(4)}, nll: ${nll.toFixed(6)} }`,
          ),
        ]
      : []),
  ].join("\n");
}

const CURVE_LINES = 11;

function thresholdLines(report: RouteReport, members: readonly string[]): string[] {
  const { tau, curve, always_first, always_last, ece, held_out } = report;
  const line = (what: string, { escalated, quality, cost_microusd }: CurvePoint) =>
    `${what.padEnd(28)}${percent(escalated)}${number(quality)}${cost_microusd.toFixed(2).padStart(12)}`;
  const steps = Math.max(1, Math.ceil(curve.length / CURVE_LINES));
  return [
    `${"".padEnd(28)}passed on  quality  micro-USD`,
    line(`always ${members[0]}`, always_first),
    line(`always ${members.at(-1)}`, always_last),
    ...curve.flatMap((point, i) => (i % steps === 0 ? [line(`tau ${point.tau.toFixed(4)}`, point)] : [])),
    "",
    line("held out", held_out),
    `within 1% of always ${members.at(-1)} (${held_out.always_last_quality.toFixed(4)}): ${held_out.within ? "yes" : "no"}`,
    `calibration error of ${members[0]} (10 bins): ${ece.toFixed(4)}`,
    `tau: ${tau.toFixed(6)}`,
  ];
}

function voteLines({ texts, members, vote, macro_f1, best_single, mcnemar, passes }: VoteReport): string[] {
  return [
    `${texts.fitted} texts fitted, ${texts.held_out} held out; macro F1 of those`,
    ...members.map(
      (one) =>
        `${one.name.padEnd(28)}${number(one.macro_f1)}  T ${one.temperature.toFixed(3)}  NLL ${one.nll.toFixed(4)}`,
    ),
    `${`${vote} vote`.padEnd(28)}${number(macro_f1)}`,
    `only ${best_single} right: ${mcnemar.only_best_single}, only the vote: ${mcnemar.only_ensemble}, McNemar p ${mcnemar.p_value.toFixed(4)}`,
    `at least as good as the best member: ${passes ? "yes" : "no"}`,
  ];
}
