import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { KilnError, nearestName, usageError } from "../../core/errors.ts";
import {
  type Contained,
  type Language,
  openContained,
  type Tier,
  throwIfStopped,
} from "../../core/platform/contained.ts";
import { duration, ProgressLine } from "../../core/platform/progress_line.ts";
import type { TextGeneration } from "../../models/generation.ts";
import { readTable } from "../data/index.ts";
import { passAtK } from "../metrics/code.ts";
import { Moments } from "../metrics/significance.ts";
import { AppendFile } from "../report/append_file.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { type CodeProblem, invalid, readProblems, taskId, text } from "./code_problems.ts";
import type { Scorer } from "./perplexity.ts";
import { SpeedMeter } from "./speed.ts";

export interface CodeFlags {
  data: string[];
  /** Default 1. */
  k?: number[];
  /** Completions of each problem; default the largest k. */
  samples?: number;
  /** Default 0.8, and 0 for one sample a problem. */
  temperature?: number;
  topP?: number;
  /** Default 512. */
  maxTokens?: number;
  seed?: number;
  /** Seconds a program may run; default 3. */
  timeout?: number;
  /** Of problems that do not say it; default python. */
  language?: Language;
  /** The only way to contain programs; default the strongest that works here. */
  tier?: Tier;
  /** A JSON Lines file with task_id and completion, in place of a model. */
  completions?: string;
  /** A folder that gets results.jsonl: each completion and how its program ended. */
  out?: string;
  speed?: boolean;
  say?: (line: string) => void;
  signal?: AbortSignal;
}

/** The model that writes the completions. */
export interface CodeWriter extends Scorer {
  name: string;
  generator: TextGeneration;
}

interface Attempt {
  problem: CodeProblem;
  completion: string;
  /** What is known without running it. */
  outcome?: string;
}

/** Completions that are written, and those that are read from a file, before their programs run. */
const writtenAtOnce = 8;
const readAtOnce = 256;

/** The outcome of a problem that the model cannot read; it counts as failed. */
const tooLong = "prompt longer than the context";

/** How the programs of a problem ended. */
class Tally {
  samples = 0;
  readonly ends: Record<string, number> = {};

  get passed(): number {
    return this.ends.passed ?? 0;
  }

  add(outcome: string): void {
    this.samples++;
    this.ends[outcome] = (this.ends[outcome] ?? 0) + 1;
  }
}

/**
 * pass@k of programs that a model writes, or that a file of completions holds: the share of problems that one of k completions
 * solves, by the unbiased estimate of Chen et al. 2021. Programs run contained, as many at once as there are cores.
 * Errors: what `readProblems` and `openContained` refuse; a completion of an unknown problem, a problem without one, or fewer
 * of a problem than the largest k.
 */
export async function evaluateCode(flags: CodeFlags, writer?: CodeWriter): Promise<EvaluationReport> {
  const { data, k = [1], say = () => {}, signal } = flags;
  const problems = await readProblems(data, flags.language);
  const samples = flags.samples ?? Math.max(...k);
  if (writer) assertEnough(`--samples ${samples}`, samples, k);
  const total = writer ? problems.size * samples : await countCompletions(flags.completions!, problems, k);
  const runners = await openRunners(problems, say, flags.tier);
  const results = resultsFile(flags);
  const meter = new SpeedMeter();
  const tallies = new Map([...problems.keys()].map((id) => [id, new Tally()]));
  const cut = { count: 0 };
  const batches = writer
    ? written(writer, problems, { ...flags, samples }, meter, cut)
    : completionBatches(flags.completions!, problems);
  const progress = new ProgressLine();
  const begin = progress.now();
  let done = 0;
  const finish = (attempt: Attempt, outcome: string, message: string) => {
    const { problem, completion } = attempt;
    tallies.get(problem.id)!.add(outcome);
    const passed = outcome === "passed";
    const result = passed || message === "" ? outcome : `${outcome}: ${message}`;
    results?.append(Buffer.from(`${JSON.stringify({ task_id: problem.id, completion, result, passed })}\n`));
    const left = ((progress.now() - begin) / ++done) * (total - done);
    progress.update(done / total, `program ${done}/${total}  ETA ${duration(left / 1000)}`);
  };
  progress.update(0, `program 0/${total}`);
  try {
    for await (const batch of batches) {
      await eachAtOnce(batch, availableParallelism(), async (attempt) => {
        const { problem, completion, outcome } = attempt;
        if (outcome) return finish(attempt, outcome, "");
        const limits = { seconds: flags.timeout ?? 3, signal };
        const ended = await runners.get(problem.language)!.run(problem.program(completion), limits);
        finish(attempt, ended.outcome, ended.message);
      });
      throwIfStopped(signal);
    }
  } finally {
    progress.end();
    results?.close();
  }
  const speed = flags.speed && writer ? { speed: await meter.value(writer.model) } : {};
  return report(flags, writer?.name ?? flags.completions!, tallies, runners, {
    ...(writer && { temperature: temperatureOf(flags, samples), completions_cut: cut.count }),
    ...speed,
  });
}

const temperatureOf = ({ temperature }: CodeFlags, samples: number) => temperature ?? (samples > 1 ? 0.8 : 0);

function assertEnough(what: string, samples: number, k: readonly number[]): void {
  const most = Math.max(...k);
  if (samples >= most) return;
  throw usageError(`${what}: pass@${most} needs ${most} completions of each problem or more`, "samples_few");
}

/** Reads all completions once, so that a mistake in the last line costs no run of the first; how many there are. */
async function countCompletions(
  file: string,
  problems: ReadonlyMap<string, CodeProblem>,
  k: readonly number[],
): Promise<number> {
  const counts = new Map([...problems.keys()].map((id) => [id, 0]));
  for await (const { problem } of completionsOf(file, problems))
    counts.set(problem.id, counts.get(problem.id)! + 1);
  const missing = [...counts].filter(([, count]) => count === 0).map(([id]) => id);
  if (missing.length > 0)
    throw new KilnError(
      `${file} has no completion of ${missing.length} of ${counts.size} problems, the first ${missing[0]}; give one of each, or leave the others out of --data`,
      { code: "completions_missing" },
    );
  for (const [id, count] of counts) assertEnough(`${file} has ${count} of ${id}`, count, k);
  return [...counts.values()].reduce((sum, count) => sum + count, 0);
}

async function* completionsOf(
  file: string,
  problems: ReadonlyMap<string, CodeProblem>,
): AsyncGenerator<Attempt> {
  const table = await readTable(file);
  for await (const row of table.rows()) {
    const id = taskId(row);
    const problem = problems.get(id);
    if (problem) {
      yield { problem, completion: text(row, "completion") };
      continue;
    }
    const near = nearestName(id, [...problems.keys()]);
    throw invalid(row, `the data has no problem ${id}${near ? `; did you mean ${near}?` : ""}`);
  }
}

async function* completionBatches(
  file: string,
  problems: ReadonlyMap<string, CodeProblem>,
): AsyncGenerator<Attempt[]> {
  let batch: Attempt[] = [];
  for await (const attempt of completionsOf(file, problems)) {
    batch.push(attempt);
    if (batch.length < readAtOnce) continue;
    yield batch;
    batch = [];
  }
  yield batch;
}

/** What the model writes, some problems at a time: programs run between, so that neither takes time from the other. */
async function* written(
  { model, tokenizer, generator }: CodeWriter,
  problems: ReadonlyMap<string, CodeProblem>,
  flags: CodeFlags & { samples: number },
  meter: SpeedMeter,
  cut: { count: number },
): AsyncGenerator<Attempt[]> {
  const { samples, maxTokens = 512, topP = 1, seed = 0 } = flags;
  const common = { max_tokens: maxTokens, temperature: temperatureOf(flags, samples), top_p: topP };
  const waiting = [...problems.values()];
  for (let number = 0; waiting.length > 0; number++) {
    const { stop } = waiting[0];
    const end = waiting.findIndex((problem, i) => i * samples >= writtenAtOnce || problem.stop !== stop);
    const chunk = waiting.splice(0, end < 0 ? waiting.length : end);
    const sizes = await Promise.all(chunk.map(async ({ prompt }) => (await tokenizer.encode(prompt)).length));
    const [fit, long] = [true, false].map((fits) =>
      chunk.filter((_, i) => sizes[i] < model.shape.max_position_embeddings === fits),
    );
    const options = { ...common, stop, seed: seed + number };
    const begin = performance.now();
    const prompts = fit.map(({ prompt }) => prompt);
    const all = await generator.generate(prompts, { ...options, n: samples });
    const tokens = all.flat().reduce((sum, { token_ids }) => sum + token_ids.length, 0);
    if (fit.length > 0)
      meter.add(tokens, performance.now() - begin, () => generator.generate(prompts.slice(0, 1), options));
    cut.count += all.flat().filter(({ finish_reason }) => finish_reason === "length").length;
    yield [
      ...fit.flatMap((problem, i) => all[i].map(({ text: completion }) => ({ problem, completion }))),
      ...long.flatMap((problem) =>
        Array.from({ length: samples }, () => ({ problem, completion: "", outcome: tooLong })),
      ),
    ];
  }
}

/** A runner for each language of the problems; says how it contains programs. */
async function openRunners(
  problems: ReadonlyMap<string, CodeProblem>,
  say: (line: string) => void,
  tier?: Tier,
): Promise<Map<Language, Contained>> {
  const runners = new Map<Language, Contained>();
  for (const language of new Set([...problems.values()].map((problem) => problem.language))) {
    const contained = await openContained(language, tier && [tier]);
    say(`${language} programs run ${contained.text}`);
    runners.set(language, contained);
  }
  return runners;
}

function resultsFile({ out, completions }: CodeFlags): AppendFile | null {
  if (out === undefined) return null;
  const path = join(out, "results.jsonl");
  if (completions !== undefined && resolve(completions) === resolve(path))
    throw usageError(`--out ${out} would replace ${completions} itself; name another folder`);
  return new AppendFile(path, "w");
}

/** Does `work` for each item, `most` at a time; after an error no other begins, and those that are at work end first. */
async function eachAtOnce<T>(
  items: readonly T[],
  most: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < items.length)
      await work(items[next++]).catch((error) => {
        next = items.length;
        throw error;
      });
  };
  const workers = Array.from({ length: Math.min(most, items.length) }, worker);
  await Promise.allSettled(workers);
  await Promise.all(workers);
}

function report(
  { data, k = [1], timeout = 3 }: CodeFlags,
  name: string,
  tallies: ReadonlyMap<string, Tally>,
  runners: ReadonlyMap<Language, Contained>,
  more: Record<string, unknown>,
): EvaluationReport {
  const scores = k.map((each) => {
    const moments = new Moments();
    for (const { samples, passed } of tallies.values()) moments.add(passAtK(samples, passed, each));
    return {
      name: `pass@${each}`,
      value: moments.mean,
      error: moments.count < 2 ? null : Math.sqrt(moments.variance / moments.count),
    };
  });
  const ends = new Tally();
  for (const tally of tallies.values())
    for (const [outcome, count] of Object.entries(tally.ends))
      for (let i = 0; i < count; i++) ends.add(outcome);
  const perProblem = [...tallies].map(([task_id, { samples, passed, ends: outcomes }]) => {
    return { task_id, samples, passed, outcomes };
  });
  const containment = Object.fromEntries([...runners].map(([language, { tier }]) => [language, tier]));
  const byCount = Object.entries(ends.ends).sort(([, a], [, b]) => b - a);
  const { speed, ...counts } = more;
  return {
    title: `Programs of ${name}`,
    values: {
      ...{ task: "code", of: name, data },
      ...Object.fromEntries(scores.map((score) => [score.name, score.value])),
      standard_error: Object.fromEntries(scores.map((score) => [score.name, score.error])),
      ...{ problems: tallies.size, programs: ends.samples, outcomes: ends.ends },
      ...{ timeout, containment, ...more, per_problem: perProblem },
    },
    tables: [
      { head: ["metric", "value", "standard error"], rows: scores.map((s) => [s.name, s.value, s.error]) },
      {
        head: ["programs ended", "programs", "share"],
        rows: byCount.map(([outcome, count]) => [outcome, count, count / ends.samples]),
      },
      valueTable({ problems: tallies.size, programs: ends.samples, ...counts, ...(speed as object) }),
    ],
    details: [
      {
        head: ["problem", "samples", "passed", "others"],
        rows: perProblem.map(({ task_id, samples, passed, outcomes: { passed: _, ...others } }) => [
          ...[task_id, samples, passed],
          Object.entries(others)
            .map(([outcome, count]) => `${outcome} ${count}`)
            .join(", "),
        ]),
      },
    ],
    notes: [
      "pass@k is the unbiased estimate of Chen et al. 2021, the standard error that over problems. A program that tries to write, read, connect or start processes outside its scratch folder is stopped there and counts as failed.",
    ],
  };
}
