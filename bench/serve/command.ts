import { readFileSync } from "node:fs";
import { KilnError, usageError } from "../../core/errors.ts";
import { atomicWriteText } from "../../core/platform/files.ts";
import { duration, ProgressLine } from "../../core/platform/progress_line.ts";
import { askServer, firstModel, type Target } from "./client.ts";
import { type Goals, type Load, realClock, runLoad, type Summary, summarize } from "./load.ts";
import { loadName, renderSvg, renderTable } from "./report.ts";
import { lengths, requestsOf, type Workload } from "./workload.ts";

/** The options of `kiln bench serve`, as the command line gives them. */
export interface LoadFlags {
  model?: string;
  chat?: boolean;
  rate?: number[];
  concurrency?: number[];
  requests: number;
  warmUp: number;
  promptTokens: string;
  outputTokens: string;
  dataset?: string;
  vocab: number;
  seed: number;
  temperature: number;
  ignoreEos: boolean;
  apiKey?: string;
  timeout: number;
  goodput?: string[];
  json?: boolean;
  svg?: string;
}

/** Measures a server under each load in turn and prints what it found. Returns whether every request was answered. */
export async function benchServer(given: string, flags: LoadFlags): Promise<boolean> {
  const { apiKey, chat = false, seed, goodput = [] } = flags;
  const url = given.replace(/\/+$/, "").replace(/\/v1$/, "");
  const goals = goalsOf(goodput);
  const workload: Workload = {
    prompt: lengths(flags.promptTokens),
    output: lengths(flags.outputTokens),
    dataset: flags.dataset === undefined ? null : promptsOf(flags.dataset),
    vocab: chat ? null : flags.vocab,
    seed,
  };
  const target: Target = {
    ...{ url, chat, apiKey, timeoutMs: flags.timeout * 1000 },
    model: flags.model ?? (await reached(url, apiKey)),
    fields: { temperature: flags.temperature, ...(flags.ignoreEos ? { ignore_eos: true } : {}) },
  };
  const ask = (request: Parameters<typeof askServer>[1]) => askServer(target, request, realClock);
  const warming = requestsOf({ ...workload, seed: seed + 2 }, flags.warmUp);
  await runLoad(warming, { concurrency: 4 }, { ask, seed });
  const loads: Load[] = [
    ...(flags.rate ?? []).map((rate) => ({ rate })),
    ...(flags.concurrency ?? (flags.rate ? [] : [8])).map((concurrency) => ({ concurrency })),
  ];
  const requests = requestsOf(workload, flags.requests);
  const line = new ProgressLine();
  const begin = line.now();
  const summaries: Summary[] = [];
  for (const [i, load] of loads.entries()) {
    const onDone = (done: number) => {
      const share = (i + done / requests.length) / loads.length;
      const eta = ((line.now() - begin) / 1000 / share) * (1 - share);
      line.update(share, `${loadName(load)}: ${done} of ${requests.length}, ETA ${duration(eta)}`);
    };
    summaries.push(summarize(await runLoad(requests, load, { ask, seed, onDone }), goals));
  }
  line.end();
  const report = { url, model: target.model, seed, requests: requests.length, goals, loads: summaries };
  process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : renderTable(summaries));
  if (flags.svg !== undefined) atomicWriteText(flags.svg, renderSvg(summaries, `${target.model} at ${url}`));
  for (const { load, failed, errors } of summaries)
    if (failed > 0) process.stderr.write(`${loadName(load)}: ${failed} failed: ${errors.join("; ")}\n`);
  return summaries.every(({ failed }) => failed === 0);
}

async function reached(url: string, apiKey: string | undefined): Promise<string> {
  try {
    return await firstModel({ url, apiKey });
  } catch (cause) {
    throw new KilnError(
      `${url} names no model (${(cause as Error).message}): start the server, or name one with --model`,
      { cause },
    );
  }
}

/** `ttft:200 itl:50`, in milliseconds. */
function goalsOf(texts: readonly string[]): Goals {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name, most] = /^(ttft|itl|e2e):(\d+(?:\.\d+)?)$/.exec(text) ?? [];
      if (name !== undefined) return [name, Number(most)];
      throw usageError(`${text} is no goal: give ttft:200, itl:50 or e2e:2000, in milliseconds`);
    }),
  );
}

/** A prompt a line: a text, or a JSON object with `prompt` or `text`. */
function promptsOf(path: string): string[] {
  const lines = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "");
  const prompts = lines.map((line) => {
    if (!line.startsWith("{")) return line;
    const { prompt, text } = JSON.parse(line) as { prompt?: unknown; text?: unknown };
    return String(prompt ?? text ?? "");
  });
  if (prompts.length > 0 && !prompts.includes("")) return prompts;
  throw new KilnError(
    `${path} must hold a prompt in each line: a text, or a JSON object with "prompt" or "text"`,
  );
}
