import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { EngineObserver, SequenceTimes } from "../engine/observer.ts";
import type { EnginePort, EngineStats } from "../engine/port.ts";
import type { Request } from "../engine/types.ts";
import type { ModelPool, TextModel } from "../models.ts";

type Labels = Readonly<Record<string, string | number>>;

interface Reading {
  readonly help: string;
  /** Labels besides `model_name`. */
  readonly labels?: readonly string[];
  /** Whether encoders have it too: then `read` takes what both kinds of engines say. */
  readonly encoders?: boolean;
  readonly read: (
    stats: EngineStats,
    runner: EnginePort["runner"],
  ) => number | readonly (readonly [Labels, number])[];
}

/** What an engine can be asked at any moment: counters are called `_total`, the others are gauges. */
const READINGS: Readonly<Record<string, Reading>> = {
  num_requests_running: {
    help: "Sequences in the running batch.",
    encoders: true,
    read: ({ running }) => running,
  },
  num_requests_waiting: {
    help: "Sequences that wait to be run.",
    encoders: true,
    read: ({ waiting }) => waiting,
  },
  num_requests_waiting_by_reason: {
    help: "Sequences that wait: for a place or memory (capacity), or while another computes their prefix (deferred).",
    labels: ["reason"],
    read: ({ waiting, deferred }) => [
      [{ reason: "capacity" }, waiting - deferred],
      [{ reason: "deferred" }, deferred],
    ],
  },
  kv_cache_usage_perc: {
    help: "Share of the K/V blocks in use; 1 means all.",
    read: ({ blocksUsed, blocksTotal }) => blocksUsed / blocksTotal,
  },
  cache_config_info: {
    help: "Sizes of the K/V cache, as labels of a 1.",
    labels: ["block_size", "num_gpu_blocks"],
    read: (_, { blockSize, blockCount }) => [[{ block_size: blockSize, num_gpu_blocks: blockCount }, 1]],
  },
  prefix_cache_queries_total: {
    help: "Prompt tokens looked up in the prefix cache.",
    read: ({ promptTokens }) => promptTokens,
  },
  prefix_cache_hits_total: {
    help: "Prompt tokens that the prefix cache held.",
    read: ({ cachedTokens }) => cachedTokens,
  },
  num_preemptions_total: {
    help: "Times that a sequence made way for others.",
    read: ({ preemptions }) => preemptions,
  },
  prompt_tokens_total: {
    help: "Tokens of the prompts that were begun.",
    encoders: true,
    read: ({ promptTokens }) => promptTokens,
  },
  generation_tokens_total: {
    help: "Tokens generated.",
    read: ({ generatedTokens }) => generatedTokens,
  },
  request_success_total: {
    help: "Sequences that have ended, by how: stop and length are complete answers.",
    encoders: true,
    labels: ["finished_reason"],
    read: ({ finished }) =>
      Object.entries(finished).map(([finished_reason, count]) => [{ finished_reason }, count] as const),
  },
};

/** 1, 2, 5, 10, ... up to 100,000, as vLLM counts tokens. */
const TOKENS = Array.from({ length: 16 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));
/** vLLM's bounds in seconds, and some below them: small models are quick. */
const REQUEST_SECONDS = [
  ...[0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60],
  ...[120, 240, 480, 960, 1920, 7680],
];
const FIRST_TOKEN_SECONDS = [
  ...[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80],
  ...[160, 640, 2560],
];
const TOKEN_SECONDS = [
  ...[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5],
  ...[7.5, 10, 20, 40, 80],
];

const HISTOGRAMS = {
  iteration_tokens_total: [
    "Tokens computed in a step.",
    [1, ...Array.from({ length: 12 }, (_, i) => 8 << i)],
  ],
  request_prompt_tokens: ["Prompt tokens of a completed sequence.", TOKENS],
  request_generation_tokens: ["Tokens generated for a completed sequence.", TOKENS],
  request_params_n: ["Answers computed for a prompt.", [1, 2, 5, 10, 20, 50, 100]],
  request_params_max_tokens: ["Tokens that an answer may have at most.", TOKENS],
  time_to_first_token_seconds: ["From acceptance to the first token.", FIRST_TOKEN_SECONDS],
  inter_token_latency_seconds: ["Between two tokens of a sequence.", TOKEN_SECONDS],
  e2e_request_latency_seconds: ["From acceptance to the end of a completed sequence.", REQUEST_SECONDS],
  request_queue_time_seconds: ["From acceptance to the first step.", REQUEST_SECONDS],
  request_inference_time_seconds: ["From the first step to the last token.", REQUEST_SECONDS],
  request_prefill_time_seconds: ["From the first step to the first token.", REQUEST_SECONDS],
  request_decode_time_seconds: ["From the first token to the last.", REQUEST_SECONDS],
} as const satisfies Record<string, readonly [help: string, buckets: readonly number[]]>;

type HistogramName = keyof typeof HISTOGRAMS;

/** Those of the process are the same for all its servers. Made when first read: they have a cost. */
let processMetrics: Registry | null = null;

function processRegistry(): Registry {
  if (processMetrics !== null) return processMetrics;
  processMetrics = new Registry();
  collectDefaultMetrics({ register: processMetrics });
  return processMetrics;
}

/**
 * The metrics of one server in Prometheus' text format, with vLLM's names after the prefix, so that its dashboards fit.
 * Numbers of an engine are read from it when asked for; only times are collected as they come.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #models: ModelPool;
  readonly #prefix: string;
  readonly #histograms: Record<HistogramName, Histogram<"model_name">>;
  readonly #responses: Counter<"method" | "handler" | "status">;

  constructor(models: ModelPool, prefix: string) {
    this.#models = models;
    this.#prefix = prefix;
    const registers = [this.#registry];
    for (const [suffix, reading] of Object.entries(READINGS)) this.#read(suffix, reading);
    const labelNames = ["model_name"] as const;
    const histogram = ([suffix, [help, buckets]]: [string, (typeof HISTOGRAMS)[HistogramName]]) =>
      [
        suffix,
        new Histogram({ name: `${prefix}:${suffix}`, help, buckets: [...buckets], labelNames, registers }),
      ] as const;
    this.#histograms = Object.fromEntries(Object.entries(HISTOGRAMS).map(histogram)) as never;
    this.#responses = new Counter({
      name: "http_requests_total",
      help: "Requests answered, by route and status.",
      labelNames: ["method", "handler", "status"],
      registers,
    });
    models.watch((model) => {
      if (model.kind === "text" && model.parent === null)
        model.frontend.engine.observe(this.#observer(model.name));
    });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async text(): Promise<string> {
    return `${await this.#registry.metrics()}\n${await processRegistry().metrics()}`;
  }

  /** Counts an answer. @param handler the path of the route, or "none". */
  answered(method: string, handler: string, status: number): void {
    this.#responses.inc({ method, handler, status });
  }

  /**
   * Each model once, with what runs on its adapters; encoders are asked for what they have in common with the others alone.
   */
  #modelsWith(encoders: boolean): TextModel[] {
    const models = new Set([...this.#models].map(([, model]) => model));
    const wanted = [...models].filter(({ kind, parent }) => parent === null && (encoders || kind === "text"));
    return wanted as TextModel[];
  }

  #read(suffix: string, { help, labels = [], encoders = false, read }: Reading): void {
    const Kind = suffix.endsWith("_total") ? Counter : Gauge;
    const metric: Counter | Gauge = new Kind({
      name: `${this.#prefix}:${suffix}`,
      help,
      labelNames: ["model_name", ...labels],
      registers: [this.#registry],
      collect: () => {
        metric.reset();
        for (const { name: model_name, frontend } of this.#modelsWith(encoders)) {
          const { engine } = frontend;
          const value = read(engine.stats(), engine.runner);
          const values = typeof value === "number" ? ([[{}, value]] as const) : value;
          for (const [others, one] of values) metric.inc({ model_name, ...others }, one);
        }
      },
    });
  }

  /** Times the sequences of one model. Those cut short count in `request_success_total` alone. */
  #observer(model_name: string): EngineObserver {
    const labels = { model_name };
    for (const histogram of Object.values(this.#histograms)) histogram.zero(labels);
    const observe = (name: HistogramName, value: number) => this.#histograms[name].observe(labels, value);
    return {
      accepted: (requests) => {
        for (const n of choicesOf(requests)) observe("request_params_n", n);
      },
      stepped: (tokens) => observe("iteration_tokens_total", tokens),
      token: (ms, isFirst) =>
        observe(isFirst ? "time_to_first_token_seconds" : "inter_token_latency_seconds", ms / 1000),
      ended: (request, finish, times, now) => {
        if (finish !== "stop" && finish !== "length") return;
        observe("request_prompt_tokens", request.prompt.length);
        observe("request_params_max_tokens", request.maxTokens);
        observe("request_generation_tokens", times.generated);
        for (const [name, ms] of periodsOf(times, now)) observe(name, ms / 1000);
      },
    };
  }
}

/** How many answers are computed for each prompt of a call. */
function choicesOf(requests: readonly Request[]): number[] {
  const starts = [...requests.keys()].filter((i) => requests[i].sampling.choice === 0);
  return starts.map((start, i) => (starts[i + 1] ?? requests.length) - start);
}

/** The parts of a sequence's life, in milliseconds. A stop string may end it before its first step has been reported. */
function periodsOf(times: SequenceTimes, now: number): [HistogramName, number][] {
  const { accepted, started, firstToken, lastToken } = times;
  const periods: [HistogramName, number][] = [["e2e_request_latency_seconds", now - accepted]];
  if (started === null) return periods;
  periods.push(
    ["request_queue_time_seconds", started - accepted],
    ["request_prefill_time_seconds", (firstToken ?? now) - started],
    ["request_inference_time_seconds", (lastToken ?? now) - started],
  );
  if (firstToken !== null) periods.push(["request_decode_time_seconds", lastToken! - firstToken]);
  return periods;
}
