import { afterEach, describe, expect, it } from "vitest";
import { createServer, ModelPool } from "../serve/index.ts";
import { fakeTokenizer, makeEngine, send, startServer, type TestServer, until } from "./serve_fake.ts";
import { parsePrometheus, seriesValue } from "./support/prometheus.ts";

const open: { close(ms?: number): Promise<void> }[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

async function start(options: Parameters<typeof startServer>[0] = {}): Promise<TestServer> {
  const started = await startServer(options);
  open.push(started.server);
  return started;
}

async function scrape(url: string, headers: Record<string, string> = {}) {
  const { status, text, headers: answered } = await send(`${url}/metrics`, { headers });
  expect([status, answered.get("content-type")]).toEqual([200, "text/plain; version=0.0.4; charset=utf-8"]);
  return parsePrometheus(text);
}

const base = { model: "tiny/fake", prompt: "once upon a time", ignore_eos: true };
const complete = (url: string, fields: object = {}) =>
  send(`${url}/v1/completions`, { json: { ...base, ...fields } });

/** vLLM's EXPECTED_METRICS_V1, of tests/entrypoints/instrumentator/test_metrics.py. */
const EXPECTED = [
  ...["num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason"],
  ...["kv_cache_usage_perc", "cache_config_info", "prefix_cache_queries", "prefix_cache_hits"],
  ...["num_preemptions_total", "prompt_tokens_total", "generation_tokens_total", "request_success_total"],
  ...["iteration_tokens_total", "request_prompt_tokens", "request_generation_tokens", "request_params_n"],
  ...["request_params_max_tokens", "time_to_first_token_seconds", "inter_token_latency_seconds"],
  ...["e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds"],
  ...["request_prefill_time_seconds", "request_decode_time_seconds"],
];
const HISTOGRAMS = EXPECTED.slice(11);

describe("/metrics", () => {
  it("counts ten requests of ten tokens exactly", async () => {
    const { url, tokenizer } = await start({ metricsPrefix: "vllm" });
    await Promise.all(
      Array.from({ length: 10 }, (_, seed) =>
        complete(url, { max_tokens: 10, seed, stream: seed % 2 === 0, temperature: 1 }),
      ),
    );
    const metrics = await scrape(url);
    const value = (name: string, labels = {}) =>
      seriesValue(metrics, `vllm:${name}`, { model_name: "tiny/fake", ...labels });
    const prompt = (await tokenizer.encode(base.prompt)).length;
    const hits = value("prefix_cache_hits_total");
    const reasons = ["stop", "length", "abort", "error"].map((finished_reason) =>
      value("request_success_total", { finished_reason }),
    );
    expect(reasons).toEqual([0, 10, 0, 0]);
    expect(value("generation_tokens_total")).toBe(100);
    expect(value("prompt_tokens_total")).toBe(10 * prompt);
    expect(value("prefix_cache_queries_total")).toBe(10 * prompt);
    expect(value("inter_token_latency_seconds_count")).toBe(10 * 9);
    for (const name of HISTOGRAMS.filter((one) => !/iteration|inter_token/.test(one)))
      expect([name, value(`${name}_count`)]).toEqual([name, 10]);
    expect(value("iteration_tokens_total_sum")).toBe(10 * prompt - hits + 10 * 9);
    expect(value("request_prompt_tokens_sum")).toBe(10 * prompt);
    expect(value("request_generation_tokens_sum")).toBe(100);
    expect(value("request_generation_tokens_bucket", { le: "5" })).toBe(0);
    expect(value("request_generation_tokens_bucket", { le: "10" })).toBe(10);
    expect(value("request_params_max_tokens_sum")).toBe(100);
    expect(value("request_params_n_sum")).toBe(10);
    const sum = (name: string) => value(`${name}_seconds_sum`);
    expect(sum("request_prefill_time") + sum("request_decode_time")).toBeCloseTo(
      sum("request_inference_time"),
      6,
    );
    expect(sum("request_queue_time") + sum("request_prefill_time")).toBeCloseTo(
      sum("time_to_first_token"),
      6,
    );
    expect(sum("inter_token_latency")).toBeCloseTo(sum("request_decode_time"), 6);
    expect(sum("e2e_request_latency")).toBeGreaterThan(sum("request_inference_time"));
  });

  it("has each name of vLLM's, at zero before the first request, and those of the process", async () => {
    const { url, runner } = await start();
    const metrics = await scrape(url);
    for (const name of EXPECTED)
      expect([...metrics.keys()].some((known) => known.startsWith(`kiln:${name}`))).toBe(true);
    for (const name of HISTOGRAMS) expect(seriesValue(metrics, `kiln:${name}_count`)).toBe(0);
    const sizes = { block_size: String(runner.blockSize), num_gpu_blocks: String(runner.blockCount) };
    expect(seriesValue(metrics, "kiln:cache_config_info", sizes)).toBe(1);
    expect(seriesValue(metrics, "process_resident_memory_bytes")).toBeGreaterThan(1e7);
    expect(seriesValue(metrics, "process_cpu_seconds_total")).toBeGreaterThan(0);
  });

  it("counts each choice, and how each ended: at a stop string, cut short by its client, or failed", async () => {
    const { url, runner, tokenizer } = await start();
    const greedy = (await complete(url, { max_tokens: 8, temperature: 0 })).body.choices[0].text as string;
    await complete(url, { max_tokens: 8, temperature: 0, n: 3, best_of: 3 });
    const stopped = await complete(url, { max_tokens: 8, temperature: 0, stop: greedy.slice(1, 3) });
    expect(stopped.body.choices[0].finish_reason).toBe("stop");
    const gone = new AbortController();
    runner.before = () => gone.abort();
    const aborted = send(`${url}/v1/completions`, {
      json: { ...base, max_tokens: 50 },
      signal: gone.signal,
    });
    await expect(aborted).rejects.toThrow();
    const reason = async (finished_reason: string) =>
      seriesValue(await scrape(url), "kiln:request_success_total", { finished_reason });
    while ((await reason("abort")) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    runner.before = () => {};
    runner.failItem = () => "broken";
    expect((await complete(url)).status).toBe(500);
    const metrics = await scrape(url);
    const value = (name: string, labels = {}) => seriesValue(metrics, `kiln:${name}`, labels);
    const ended = ["stop", "length", "abort", "error"].map((finished_reason) =>
      value("request_success_total", { finished_reason }),
    );
    expect(ended).toEqual([1, 4, 1, 1]);
    expect([value("request_params_n_count"), value("request_params_n_sum")]).toEqual([5, 7]);
    expect(value("e2e_request_latency_seconds_count")).toBe(5);
    const prompt = (await tokenizer.encode(base.prompt)).length;
    expect(value("request_prompt_tokens_sum")).toBe(5 * prompt);
    const answers = (status: number) =>
      seriesValue(metrics, "http_requests_total", { handler: "/v1/completions", status: String(status) });
    expect([answers(200), answers(500)]).toEqual([3, 1]);
  });

  it("shows what runs and waits at the moment", async () => {
    const { url, runner, engine } = await start({ maxSeqs: 2, maxBatchedTokens: 8 });
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    runner.before = () => held;
    const prompts = [
      [5, 6, 7, 8, 9, 10],
      [11, 12],
      [13, 14],
    ];
    const answers = prompts.map((prompt) => complete(url, { prompt, max_tokens: 3 }));
    await until(() => engine.stats().accepted === 3);
    const metrics = await scrape(url);
    const value = (name: string, labels = {}) => seriesValue(metrics, `kiln:${name}`, labels);
    const { running, waiting } = engine.stats();
    expect(running + waiting).toBe(3);
    expect(waiting).toBeGreaterThan(0);
    expect([value("num_requests_running"), value("num_requests_waiting")]).toEqual([running, waiting]);
    expect(value("num_requests_waiting_by_reason", { reason: "capacity" })).toBe(waiting);
    const { blocksUsed, blocksTotal } = engine.stats();
    expect(blocksUsed).toBeGreaterThan(0);
    expect(value("kv_cache_usage_perc")).toBe(blocksUsed / blocksTotal);
    release();
    await Promise.all(answers);
  });

  it("shows who waits for another's prefix", async () => {
    const { url, runner, engine } = await start({ maxBatchedTokens: 8, maxSeqs: 8 });
    let [steps, release] = [0, () => {}];
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    runner.before = () => (++steps === 2 ? held : undefined);
    const prompt = Array.from({ length: 20 }, (_, i) => 5 + i);
    const answer = complete(url, { prompt, max_tokens: 1, n: 3 });
    await until(() => steps === 2);
    const metrics = await scrape(url);
    expect(engine.stats().deferred).toBe(2);
    expect(seriesValue(metrics, "kiln:num_requests_waiting_by_reason", { reason: "deferred" })).toBe(2);
    expect(seriesValue(metrics, "kiln:num_requests_waiting_by_reason", { reason: "capacity" })).toBe(0);
    release();
    await answer;
    expect(engine.stats().deferred).toBe(0);
  });

  it("wants a key where the server has one, and tells the models apart, also those that come later", async () => {
    const models = new ModelPool();
    const tokenizer = fakeTokenizer();
    const add = (name: string, aliases: string[] = []) =>
      models.addText({
        ...{ name, aliases, tokenizer },
        runner: makeEngine({ vocabSize: tokenizer.vocabSize }).engine.runner,
      });
    add('a "quoted\\name"', ["alias"]);
    const server = createServer({ models, apiKey: "secret" });
    open.push(server);
    const url = await server.listen({ port: 0 });
    add("later");
    expect((await send(`${url}/metrics`)).status).toBe(401);
    const headers = { authorization: "Bearer secret" };
    for (const model of ["alias", 'a "quoted\\name"', "later"])
      await send(`${url}/v1/completions`, { json: { ...base, model, max_tokens: 2 }, headers });
    const metrics = await scrape(url, headers);
    const count = (model_name: string) =>
      seriesValue(metrics, "kiln:time_to_first_token_seconds_count", { model_name });
    expect([count('a "quoted\\name"'), count("later"), count("alias")]).toEqual([2, 1, Number.NaN]);
    expect(seriesValue(metrics, "kiln:generation_tokens_total", { model_name: 'a "quoted\\name"' })).toBe(4);
    expect(seriesValue(metrics, "http_requests_total", { handler: "/metrics", status: "401" })).toBe(1);
  });
});

describe("the parser that these tests use", () => {
  it.each([
    ["# TYPE a counter\na 1\na 1\n", "twice"],
    ["a 1\n", "stands under"],
    ["# TYPE a counter\na x\n", "no number"],
    ["# TYPE a counter\na 1", "line feed"],
    ["# TYPE a counter\n# TYPE a counter\na 1\n", "second"],
    ['# TYPE a counter\na{b="1} 1\n', "no labels"],
    ['# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n', "no histogram"],
    ['# TYPE a histogram\na_bucket{le="+Inf"} 1\na_sum 1\na_count 2\n', "no histogram"],
  ])("refuses %j", (text, message) => {
    expect(() => parsePrometheus(text)).toThrow(message);
  });
});
