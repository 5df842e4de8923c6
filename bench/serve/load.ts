import { arrivals, type LoadRequest } from "./workload.ts";

/** What became of one request; times in milliseconds. */
export interface Sample {
  /** To the first token. */
  readonly ttft: number;
  /** Between the tokens after it. */
  readonly itl: readonly number[];
  /** To the end. */
  readonly e2e: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Why it failed; null: it did not. */
  readonly error: string | null;
}

/** How requests are given: so many a second whatever becomes of them, or so many at once. */
export type Load = { readonly rate: number } | { readonly concurrency: number };

export interface Clock {
  now(): number;
  sleep(ms: number): Promise<void>;
}

export const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

export interface Run {
  readonly load: Load;
  readonly samples: readonly Sample[];
  /** From the first request to the last answer, in milliseconds. */
  readonly ms: number;
}

interface RunOptions {
  readonly ask: (request: LoadRequest) => Promise<Sample>;
  readonly seed: number;
  readonly clock?: Clock;
  /** Told after each answer. */
  readonly onDone?: (done: number) => void;
}

/** Gives all requests as the load says and waits for their answers. */
export async function runLoad(
  requests: readonly LoadRequest[],
  load: Load,
  { ask, seed, clock = realClock, onDone = () => {} }: RunOptions,
): Promise<Run> {
  const start = clock.now();
  const samples: Sample[] = [];
  let done = 0;
  const one = async (index: number) => {
    samples[index] = await ask(requests[index]);
    onDone(++done);
  };
  if ("rate" in load) {
    const times = arrivals(load.rate, requests.length, seed);
    const open: Promise<void>[] = [];
    for (const [index, at] of times.entries()) {
      const wait = start + at - clock.now();
      if (wait > 0) await clock.sleep(wait);
      open.push(one(index));
    }
    await Promise.all(open);
  } else {
    let next = 0;
    const worker = async () => {
      while (next < requests.length) await one(next++);
    };
    await Promise.all(Array.from({ length: Math.min(load.concurrency, requests.length) }, worker));
  }
  return { load, samples, ms: clock.now() - start };
}

/** Milliseconds that a request may take, by name; `itl` is the mean of its own. */
export type Goals = Partial<Record<"ttft" | "itl" | "e2e", number>>;

export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

export interface Summary {
  readonly load: Load;
  readonly completed: number;
  readonly failed: number;
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly outputTokensPerSecond: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly ttft: Percentiles;
  readonly itl: Percentiles;
  readonly e2e: Percentiles;
  /** Requests a second that met every goal; null without goals. */
  readonly goodput: number | null;
  /** The first few reasons of failures. */
  readonly errors: readonly string[];
}

export function summarize({ load, samples, ms }: Run, goals: Goals): Summary {
  const good = samples.filter(({ error }) => error === null);
  const bad = samples.filter(({ error }) => error !== null);
  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
  const seconds = ms / 1000;
  const outputTokens = total(good.map((one) => one.outputTokens));
  const meets = (one: Sample) =>
    Object.entries(goals).every(([name, most]) => {
      const value =
        name === "itl" ? total(one.itl) / Math.max(1, one.itl.length) : one[name as "ttft" | "e2e"];
      return value <= most;
    });
  return {
    load,
    ...{ completed: good.length, failed: bad.length, seconds },
    requestsPerSecond: good.length / seconds,
    outputTokensPerSecond: outputTokens / seconds,
    promptTokens: total(good.map((one) => one.promptTokens)),
    outputTokens,
    ttft: percentiles(good.map(({ ttft }) => ttft)),
    itl: percentiles(good.flatMap(({ itl }) => itl)),
    e2e: percentiles(good.map(({ e2e }) => e2e)),
    goodput: Object.keys(goals).length === 0 ? null : good.filter(meets).length / seconds,
    errors: [...new Set(bad.map(({ error }) => error!))].slice(0, 5),
  };
}

/** The smallest value that so many percent do not exceed; NaN of none. */
export function percentiles(values: readonly number[]): Percentiles {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99) };
}
