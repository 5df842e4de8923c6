import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { EncodedText } from "../models/text_rows.ts";
import { DeviceShare } from "../serve/engine/device_share.ts";
import { EncoderEngine, type EncoderEngineOptions } from "../serve/engine/encoder_engine.ts";
import type { EncoderRunner } from "../serve/engine/encoder_runner.ts";
import { collect, GREEDY, makeEngine, makeRequest, until } from "./serve_fake.ts";

/** An encoder without a device: a text's numbers are its length and the sum of its ids. */
class FakeEncoder implements EncoderRunner {
  readonly vocabSize = 100;
  readonly maxModelLen = 512;
  readonly maxBatchTokens = 4096;
  readonly batches: (readonly EncodedText[])[] = [];
  /** Called before each batch; may throw or wait. */
  before: (texts: readonly EncodedText[]) => unknown = () => {};

  rowLength(tokens: number): number {
    return Math.ceil(tokens / 16) * 16;
  }

  async run(texts: readonly EncodedText[]): Promise<Float32Array[]> {
    this.batches.push(texts);
    expect(new Set(texts.map(({ ids }) => this.rowLength(ids.length))).size).toBe(1);
    await this.before(texts);
    return texts.map(({ ids }) => Float32Array.of(ids.length, sum(ids)));
  }
}

const sum = (ids: ArrayLike<number>) => Array.from(ids).reduce((a, b) => a + b, 0);
const text = (length: number, id = 1): EncodedText => ({ ids: new Array(length).fill(id) });
const isDone = (engine: EncoderEngine) => {
  const { accepted, finished, running, waiting } = engine.stats();
  return { running, waiting, open: accepted - Object.values(finished).reduce((a, b) => a + b, 0) };
};
const DONE = { running: 0, waiting: 0, open: 0 };

function make(options: Partial<EncoderEngineOptions> = {}) {
  const runner = new FakeEncoder();
  const errors: unknown[] = [];
  const engine = new EncoderEngine({
    runner,
    share: new DeviceShare(),
    onError: (error) => errors.push(error),
    ...options,
  });
  return { runner, engine, errors };
}

describe("an encoder's engine", () => {
  it("gives each request its own numbers in order, and ends each once", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.integer({ min: 0, max: 2 }),
            fc.array(fc.integer({ min: 1, max: 70 }), { minLength: 1 }),
          ),
        ),
        async (requests) => {
          const { engine } = make();
          const jobs = requests.map(([client, lengths], id) => {
            const texts = lengths.map((length) => text(length, id));
            return { texts, job: engine.submit(`client ${client}`, texts) };
          });
          for (const { texts, job } of jobs) {
            const expected = texts.map(({ ids }) => [ids.length, sum(ids)]);
            expect((await job.done).map((numbers) => [...numbers])).toEqual(expected);
          }
          expect(isDone(engine)).toEqual(DONE);
        },
      ),
      { numRuns: 40 },
    ));

  it("fills a batch with texts of one length, of several clients, and lets clients take turns", async () => {
    const { engine, runner } = make();
    const many = engine.submit("many", Array(200).fill(text(40)));
    const few = engine.submit("few", [text(40), text(3)]);
    const order: string[] = [];
    void many.done.then(() => order.push("many"));
    await few.done.then(() => order.push("few"));
    await many.done;
    expect(order).toEqual(["few", "many"]);
    expect(runner.batches[0].length).toBeGreaterThan(1);
  });

  it("makes batches as large as fit the time they should take", async () => {
    let clock = 0;
    const now = () => clock;
    const { engine, runner } = make({ now, share: new DeviceShare(now) });
    // 0.1 ms a token: 100 ms are 1000 tokens.
    runner.before = (texts) => {
      clock += 1 + 0.1 * texts.length * 64;
    };
    await engine.submit("one", Array(200).fill(text(64))).done;
    const sizes = runner.batches.map(({ length }) => length * 64);
    expect(sizes[0]).toBeLessThan(600);
    const settled = sizes.slice(3, -1);
    expect(settled.length).toBeGreaterThan(2);
    for (const size of settled) expect(Math.abs(size - 990)).toBeLessThan(70);
  });

  it("refuses when the queue is full, but leaves each client its share", async () => {
    const { engine, runner } = make({ limits: { queuedTexts: 10 } });
    let go = () => {};
    runner.before = () => new Promise<void>((resolve) => (go = resolve));
    const first = engine.submit("one", [text(16)]);
    await until(() => runner.batches.length === 1);
    const second = engine.submit("one", Array(9).fill(text(16)));
    expect(() => engine.submit("one", [text(16), text(16)])).toThrow("9 texts are waiting already");
    const other = engine.submit("two", [text(16), text(16)]);
    runner.before = () => {};
    go();
    await Promise.all([first.done, second.done, other.done]);
    // A request for more than the queue holds is accepted where none waits.
    await engine.submit("one", Array(30).fill(text(16))).done;
    expect(isDone(engine)).toEqual(DONE);
  });

  it("forgets a request whose client left, at any moment", async () => {
    const { engine, runner } = make();
    const job = engine.submit("one", [text(16), text(40), text(80)]);
    runner.before = () => {
      if (runner.batches.length === 2) job.cancel();
    };
    const other = engine.submit("two", [text(16)]);
    await expect(job.done).rejects.toMatchObject({ code: "client_closed" });
    await other.done;
    await until(() => isDone(engine).running === 0);
    expect(isDone(engine)).toEqual(DONE);
    const before = engine.submit("one", [text(16)]);
    before.cancel();
    before.cancel();
    await expect(before.done).rejects.toMatchObject({ code: "client_closed" });
    expect(engine.stats().finished.abort).toBe(2);
    expect(runner.batches.length).toBe(2);
  });

  it("fails the requests of a failing batch, or of numbers that are not finite, and no others", async () => {
    const { engine, runner, errors } = make();
    runner.before = (texts) => {
      if (texts[0].ids[0] === 66) throw new Error("the device hiccups");
    };
    const bad = engine.submit("one", [text(40, 66)]);
    const nan = engine.submit("two", [text(20, Number.NaN), text(20)]);
    const good = engine.submit("three", [text(20)]);
    await expect(bad.done).rejects.toMatchObject({ code: "engine_error" });
    await expect(nan.done).rejects.toMatchObject({ code: "engine_error" });
    expect([...(await good.done)[0]]).toEqual([20, 20]);
    expect(errors.map((error) => (error as Error).message)).toEqual([
      "the device hiccups",
      "the encoder's numbers are not finite (NaN or infinity)",
    ]);
    expect([isDone(engine), engine.state]).toEqual([DONE, "ready"]);
    for (let i = 0; i < 3; i++) await engine.submit("one", [text(40, 66)]).done.catch(() => {});
    expect(engine.state).toBe("failing");
    await engine.submit("one", [text(40)]).done;
    expect(engine.state).toBe("ready");
  });

  it("gives up what waits too long, and all while the device hangs", async () => {
    const { engine, runner } = make({ limits: { queueWaitMs: 20, stepMs: 60 } });
    let go = () => {};
    runner.before = () => new Promise<void>((resolve) => (go = resolve));
    const hanging = engine.submit("one", [text(16)]);
    const waiting = engine.submit("one", [text(40)]);
    await expect(hanging.done).rejects.toMatchObject({ code: "engine_unavailable" });
    await expect(waiting.done).rejects.toMatchObject({ code: "engine_unavailable" });
    expect(engine.state).toBe("hung");
    expect(() => engine.submit("one", [text(16)])).toThrow("does not respond");
    go();
    await until(() => engine.state === "ready");
    runner.before = () => new Promise<void>((resolve) => setTimeout(resolve, 30));
    const first = engine.submit("one", [text(16)]);
    const late = engine.submit("two", [text(40)]);
    await first.done;
    await expect(late.done).rejects.toMatchObject({ code: "queue_timeout" });
  });

  it("finishes what it has accepted before it is drained, or ends it with an error", async () => {
    const { engine, runner } = make();
    const job = engine.submit("one", [text(16), text(40)]);
    await engine.drain(10_000);
    expect((await job.done).length).toBe(2);
    expect(() => engine.submit("one", [text(16)])).toThrow("shutting down");
    const other = make();
    other.runner.before = () => new Promise(() => {});
    const cut = other.engine.submit("one", [text(16)]);
    await until(() => other.runner.batches.length === 1);
    await other.engine.drain(1);
    await expect(cut.done).rejects.toMatchObject({ code: "shutting_down" });
    expect(runner.batches.length).toBe(2);
  });
});

describe("streams beside a flood of embeddings", () => {
  /** Times between the tokens of 16 streams, in virtual milliseconds, and what ran in which order. */
  async function streams(encode: boolean, longest: number) {
    let clock = 0;
    const now = () => clock;
    const share = new DeviceShare(now);
    const order: string[] = [];
    const { engine, runner } = makeEngine({ share, maxModelLen: 512, blockCount: 4096 });
    runner.before = (items) => {
      order.push("step");
      clock += 4 + 0.02 * items.reduce((total, { tokens }) => total + tokens.length, 0);
    };
    const encoder = new FakeEncoder();
    const reader = new EncoderEngine({ runner: encoder, share, now });
    encoder.before = (texts) => {
      order.push("batch");
      clock += 0.5 + texts.length * encoder.rowLength(texts[0].ids.length) * 0.006;
    };
    let writing = true;
    const floods = encode
      ? Array.from({ length: 4 }, async (_, client) => {
          for (let n = client; writing; n++) {
            const texts = Array.from({ length: 64 }, (_, i) => text(1 + ((n * 31 + i * 17) % longest)));
            await reader.submit(`flood ${client}`, texts).done.catch(() => {});
          }
        })
      : [];
    const gaps: number[] = [];
    const all = Array.from({ length: 16 }, () => {
      let last: number | null = null;
      const request = makeRequest({ sampling: GREEDY, maxTokens: 200 });
      return collect(engine, request, ({ token }) => {
        if (token && last !== null) gaps.push(clock - last);
        last = clock;
      }).end;
    });
    await Promise.all(all);
    writing = false;
    await reader.drain(60_000);
    await Promise.all(floods);
    gaps.sort((a, b) => a - b);
    return { p99: gaps[Math.floor(gaps.length * 0.99)], texts: reader.stats().promptTokens, order };
  }

  it("F31: keep their time between tokens, at the 99th percentile, within twice what it is alone", async () => {
    const alone = await streams(false, 0);
    const beside = await streams(true, 480);
    expect(beside.p99 / alone.p99).toBeLessThanOrEqual(2);
    expect(beside.p99 / alone.p99).toBeGreaterThan(1.2);
    // While text is written, no two batches run without a step between.
    const while_ = beside.order.slice(0, beside.order.lastIndexOf("step")).join(" ");
    expect(while_).not.toContain("batch batch");
    expect(beside.order.filter((what) => what === "batch").length).toBeGreaterThan(50);
  });

  it("do not wait for embeddings that stopped coming, nor they for streams that ended", async () => {
    const share = new DeviceShare();
    share.enter();
    await share.step(async () => {});
    await share.batch(async () => {});
    let ran = false;
    const second = share.batch(async () => {
      ran = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    // It waits for a step, which a writing engine will ask for.
    expect(ran).toBe(false);
    share.leave();
    await second;
    expect(ran).toBe(true);
    const failing = share.step(async () => {
      throw new Error("a step fails");
    });
    await expect(failing).rejects.toThrow("a step fails");
    const later = vi.fn(async () => {});
    await share.step(later);
    expect(later).toHaveBeenCalled();
  });
});
