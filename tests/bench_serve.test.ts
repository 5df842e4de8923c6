import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { askServer } from "../bench/serve/client.ts";
import { benchServer, type LoadFlags } from "../bench/serve/command.ts";
import { type Clock, percentiles, realClock, runLoad, type Sample, summarize } from "../bench/serve/load.ts";
import { renderSvg, renderTable } from "../bench/serve/report.ts";
import { arrivals, lengths, requestsOf, uniforms } from "../bench/serve/workload.ts";
import { fakeChatTokenizer, startServer, type TestServer } from "./serve_fake.ts";

/** Time that passes only in sleep, in the order of the alarms. */
class VirtualClock implements Clock {
  #time = 0;
  readonly #alarms: { at: number; ring: () => void }[] = [];

  now(): number {
    return this.#time;
  }

  sleep(ms: number): Promise<void> {
    return new Promise((ring) => {
      this.#alarms.push({ at: this.#time + ms, ring });
    });
  }

  async run<T>(work: Promise<T>): Promise<T> {
    let done = false;
    void work.finally(() => {
      done = true;
    });
    for (;;) {
      // All that follows from the last alarm happens before the next.
      for (let i = 0; i < 20; i++) await Promise.resolve();
      if (done) return work;
      this.#alarms.sort((a, b) => a.at - b.at);
      const next = this.#alarms.shift()!;
      this.#time = next.at;
      next.ring();
    }
  }
}

const sample = (fields: Partial<Sample> = {}): Sample => ({
  ...{ ttft: 10, itl: [5, 5], e2e: 20, promptTokens: 4, outputTokens: 3, error: null },
  ...fields,
});
const requests = Array.from({ length: 12 }, (_, i) => ({ prompt: `${i}`, maxTokens: 3 }));

describe("the load", () => {
  it("keeps so many requests open, and no more", async () => {
    const clock = new VirtualClock();
    let [open, most] = [0, 0];
    const ask = async () => {
      most = Math.max(most, ++open);
      await clock.sleep(100);
      open--;
      return sample();
    };
    const run = await clock.run(runLoad(requests, { concurrency: 4 }, { ask, seed: 0, clock }));
    expect([most, run.ms, run.samples.length]).toEqual([4, 300, 12]);
    expect(summarize(run, {})).toMatchObject({
      ...{ completed: 12, failed: 0, seconds: 0.3, requestsPerSecond: 40, outputTokensPerSecond: 120 },
      ...{ promptTokens: 48, outputTokens: 36, goodput: null },
    });
  });

  it("sends requests at a rate whatever becomes of the earlier ones", async () => {
    const clock = new VirtualClock();
    const sent: number[] = [];
    const ask = async () => {
      sent.push(clock.now());
      await clock.sleep(1e5);
      return sample();
    };
    const run = await clock.run(runLoad(requests, { rate: 2 }, { ask, seed: 9, clock }));
    expect(sent).toEqual(arrivals(2, 12, 9));
    expect(run.ms).toBeCloseTo(sent.at(-1)! + 1e5, 6);
  });

  it("arrives as a Poisson process of the rate, and draws lengths as told, alike for a seed", () => {
    const times = arrivals(50, 20_000, 3);
    expect(times).toEqual(arrivals(50, 20_000, 3));
    expect(times).not.toEqual(arrivals(50, 20_000, 4));
    const gaps = times.map((time, i) => time - (times[i - 1] ?? 0));
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
    const deviation = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length);
    // Of an exponential distribution the deviation is the mean: 20 ms, of which 20,000 gaps give 0.7 %.
    expect(mean).toBeGreaterThan(19.4);
    expect(mean).toBeLessThan(20.6);
    expect(deviation / mean).toBeCloseTo(1, 1);
    const drawn = (text: string) => {
      const uniform = uniforms(1);
      return Array.from({ length: 5000 }, () => lengths(text)(uniform)).sort((a, b) => a - b);
    };
    expect(new Set(drawn("fixed:7"))).toEqual(new Set([7]));
    const even = drawn("uniform:3-6");
    expect([even[0], even.at(-1), new Set(even).size]).toEqual([3, 6, 4]);
    const skewed = drawn("lognormal:100,0.5");
    expect(Math.abs(skewed[2500]! - 100)).toBeLessThan(5);
    expect(Math.abs(Math.log(skewed[4206]! / 100) - 0.5)).toBeLessThan(0.06);
    for (const bad of ["0", "x", "uniform:5-2", "lognormal:0,1", "-3"])
      expect(() => lengths(bad)).toThrow("no distribution");
  });

  it("reports the smallest value that so many percent do not exceed", () => {
    const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect(percentiles(hundred)).toEqual({ p50: 50, p95: 95, p99: 99 });
    expect(percentiles([3])).toEqual({ p50: 3, p95: 3, p99: 3 });
    expect(percentiles([]).p50).toBeNaN();
  });

  it("counts as good what met every goal, of what did not fail", () => {
    const samples = [
      sample(),
      sample({ ttft: 200 }),
      sample({ itl: [5, 45] }),
      sample({ itl: [5, 46] }),
      sample({ error: "status 500" }),
      sample({ error: "status 500" }),
    ];
    const run = { load: { rate: 3 }, samples, ms: 2000 };
    const summary = summarize(run, { ttft: 100, itl: 25 });
    expect(summary).toMatchObject({ completed: 4, failed: 2, goodput: 1, errors: ["status 500"] });
    expect(summary.itl.p99).toBe(46);
    const table = renderTable([
      summary,
      summarize({ ...run, samples: samples.slice(4), load: { concurrency: 2 } }, {}),
    ]);
    expect(table).toMatch(/^3 req\/s +4 +2 +2\.00 +6\.00 +10\.0 \/ 200 \/ 200/m);
    expect(table).toMatch(/^2 at once +0 +2 +0\.00 +0\.00 +- \/ - \/ -/m);
    const svg = renderSvg([summary, summarize({ ...run, ms: 1000 }, {})], 'a "model" <x>');
    expect(svg.match(/<polyline/g)!.length).toBe(4);
    expect(svg.match(/<circle/g)!.length).toBe(8);
    expect(svg).not.toMatch(/NaN|<x>/);
  });
});

describe("against our server", () => {
  let server: TestServer;
  const folder = mkdtempSync(join(tmpdir(), "kiln-load-"));
  beforeAll(async () => {
    server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 256, apiKey: "secret" });
  });
  afterEach(() => vi.restoreAllMocks());
  afterAll(async () => {
    await server.server.close();
    rmSync(folder, { recursive: true });
  });

  const flags: LoadFlags = {
    ...{ requests: 12, warmUp: 2, promptTokens: "uniform:4-9", outputTokens: "10", vocab: 250, seed: 1 },
    ...{ temperature: 0, ignoreEos: true, timeout: 20, json: true, apiKey: "secret" },
  };
  async function bench(more: Partial<LoadFlags>) {
    let out = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      out += text;
      return true;
    });
    vi.spyOn(process.stderr, "write").mockImplementation(() => true);
    const good = await benchServer(`${server.url}/v1/`, { ...flags, ...more });
    vi.restoreAllMocks();
    return { good, out };
  }

  it("every request and token is counted, as the server counts them", async () => {
    const before = server.engine.stats();
    const svg = join(folder, "load.svg");
    const { good, out } = await bench({ rate: [400], concurrency: [1, 6], svg, goodput: ["ttft:60000"] });
    const { loads, model } = JSON.parse(out);
    expect([good, model, loads.length]).toEqual([true, "tiny/fake", 3]);
    const prompts = requestsOf(
      { prompt: lengths(flags.promptTokens), output: lengths("10"), dataset: null, vocab: 250, seed: 1 },
      12,
    );
    const promptTokens = prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
    for (const one of loads) {
      expect(one).toMatchObject({ completed: 12, failed: 0, outputTokens: 120, promptTokens, errors: [] });
      expect(one.goodput).toBeCloseTo(one.requestsPerSecond, 9);
      expect(one.ttft.p50).toBeGreaterThan(0);
      expect(one.e2e.p50).toBeGreaterThan(one.ttft.p50);
    }
    const after = server.engine.stats();
    expect(after.accepted - before.accepted).toBe(2 + 3 * 12);
    expect(after.generatedTokens - before.generatedTokens).toBe(10 * (2 + 3 * 12));
    expect(readFileSync(svg, "utf8")).toMatch(/^<svg /);
  });

  it("chats with words, or with the prompts of a file", async () => {
    const dataset = join(folder, "prompts.jsonl");
    writeFileSync(dataset, 'once upon a time\n{"prompt": "the dog"}\n');
    const { good, out } = await bench({ chat: true, concurrency: [3], warmUp: 0, json: false });
    expect(good).toBe(true);
    expect(out).toMatch(/^3 at once +12 +0 /m);
    expect((await bench({ dataset, concurrency: [3] })).good).toBe(true);
    await expect(bench({ dataset: "/dev/null" })).rejects.toThrow("must hold a prompt in each line");
    await expect(bench({ goodput: ["speed:1"] })).rejects.toThrow("speed:1 is no goal");
  });

  it("says what failed", async () => {
    const { good, out } = await bench({ outputTokens: "1000", concurrency: [2] });
    expect(good).toBe(false);
    const [load] = JSON.parse(out).loads;
    expect(load).toMatchObject({ completed: 0, failed: 12 });
    expect(load.errors[0]).toMatch(/^status 400: .*256 tokens/);
    await expect(bench({ apiKey: "wrong" })).rejects.toThrow("names no model");
    const gone = { ...flags, requests: 1, concurrency: [1], model: "m" };
    vi.spyOn(process.stderr, "write").mockImplementation(() => true);
    vi.spyOn(process.stdout, "write").mockImplementation(() => true);
    expect(await benchServer("http://127.0.0.1:1", gone)).toBe(false);
  });
});

describe("against a server of known delays", () => {
  let stub: Server;
  let how: "slow" | "broken" | "error" = "slow";
  beforeAll(async () => {
    stub = createHttpServer(async (request, response) => {
      request.resume();
      const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
      const say = (data: object) => response.write(`data: ${JSON.stringify(data)}\r\n\r\n`);
      response.writeHead(200, { "content-type": "text/event-stream" });
      await pause(60);
      say({ choices: [{ delta: { role: "assistant", content: "" }, finish_reason: null }] });
      for (const text of ["a", "b", "c"]) {
        say({ choices: [{ delta: { content: text }, finish_reason: null }] });
        await pause(30);
      }
      if (how === "error") say({ error: { message: "the model failed" } });
      if (how !== "slow") return void response.end();
      say({ choices: [{ delta: {}, finish_reason: "length" }] });
      response.end("data: [DONE]\n\n");
    });
    await new Promise<void>((resolve) => stub.listen(0, "127.0.0.1", resolve));
  });
  afterAll(() => stub.close());
  const ask = () => {
    const url = `http://127.0.0.1:${(stub.address() as AddressInfo).port}`;
    const target = { url, model: "m", chat: true, apiKey: undefined, fields: {}, timeoutMs: 5000 };
    return askServer(target, { prompt: "x", maxTokens: 3 }, realClock);
  };

  it("times the first piece of text, those after it and the end", async () => {
    const { ttft, itl, e2e, outputTokens, error } = await ask();
    expect([error, outputTokens, itl.length]).toEqual([null, 3, 2]);
    // Timers may go off a millisecond early; a busy machine makes them late.
    expect(ttft).toBeGreaterThan(58);
    for (const time of itl) expect(time).toBeGreaterThan(15);
    expect(e2e).toBeGreaterThan(ttft + itl[0]! + itl[1]! + 25);
  });

  it("sees a stream that breaks off, or holds an error", async () => {
    how = "broken";
    expect((await ask()).error).toBe("the stream broke off");
    how = "error";
    expect((await ask()).error).toBe("error in the stream: the model failed");
  });
});
