import fc from "fast-check";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { DeviceShare } from "../serve/engine/device_share.ts";
import { scoreRow } from "../serve/engine/sampler.ts";
import type { Request, Sampling } from "../serve/engine/types.ts";
import { collect, expected, fakeLogits, GREEDY, IDLE, idle, makeEngine, makeRequest } from "./serve_fake.ts";

const VOCAB = 32;
const ids = (tokens: readonly { id: number }[]) => tokens.map(({ id }) => id);
const tick = () => new Promise((resolve) => setImmediate(resolve));

/** One step after the other, and with the next in flight before the results are there. */
const both = [{ overlap: false }, { overlap: true }];

const sampling: fc.Arbitrary<Sampling> = fc
  .record({
    temperature: fc.constantFrom(0, 0.7, 1),
    topK: fc.constantFrom(0, 5),
    topP: fc.constantFrom(1, 0.8),
    repetitionPenalty: fc.constantFrom(1, 1.3),
    frequencyPenalty: fc.constantFrom(0, 0.5),
    seed: fc.tuple(fc.nat(), fc.nat()),
    choice: fc.nat(3),
  })
  .map((params) => ({ ...GREEDY, ...params }));

const anyRequest: fc.Arbitrary<Request> = fc
  .record({
    prompt: fc.array(fc.nat(VOCAB - 1), { minLength: 1, maxLength: 60 }),
    sampling,
    maxTokens: fc.integer({ min: 1, max: 40 }),
    minTokens: fc.constantFrom(0, 0, 1),
    stopTokenIds: fc.constantFrom(new Set<number>(), new Set([3]), new Set([1, 2])),
    priority: fc.integer({ min: -1, max: 1 }),
    topLogprobs: fc.constantFrom(null, 0, 2),
  })
  .map((options) => makeRequest(options));

describe("an answer depends on its request alone", () => {
  it("equals the plain computation in any company, chunk size, block size, and pool", async () => {
    let preemptions = 0;
    let fed = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyRequest, { minLength: 1, maxLength: 20 }),
        fc.constantFrom(1, 4, 16),
        fc.constantFrom(8, 9, 64),
        fc.nat(12),
        fc.boolean(),
        async (requests, blockSize, maxBatchedTokens, spare, overlap) => {
          const { engine, runner } = makeEngine({
            overlap,
            blockSize,
            blockCount: Math.ceil(128 / blockSize) + 1 + spare,
            maxSeqs: 8,
            maxBatchedTokens,
          });
          const runs = [];
          for (const [i, request] of requests.entries()) {
            runs.push(collect(engine, { ...request, id: `${request.id}/${i}` }));
            if (i % 3 === 0) await tick();
          }
          for (const { request, tokens, end } of runs) {
            const { finish } = await end;
            const want = expected(request, VOCAB);
            expect(tokens).toEqual(want);
            expect(finish).toBe(
              request.stopTokenIds.has(want.at(-1)!.id) && want.length > request.minTokens
                ? "stop"
                : "length",
            );
          }
          expect(idle(engine)).toEqual(IDLE);
          preemptions += engine.stats().preemptions;
          fed += runner.fed;
        },
      ),
      { numRuns: 200 },
    );
    expect(preemptions).toBeGreaterThan(0);
    expect(fed).toBeGreaterThan(100);
  });

  it.each(both)("survives forced preemption, overlap $overlap", async ({ overlap }) => {
    // 32 requests in a pool of 1.2 of the longest.
    const { engine } = makeEngine({
      overlap,
      blockCount: 39,
      blockSize: 4,
      maxSeqs: 16,
      maxBatchedTokens: 32,
    });
    const runs = Array.from({ length: 32 }, (_, i) =>
      collect(engine, makeRequest({ prompt: [i % VOCAB, 5, 6, 7], maxTokens: 60 })),
    );
    for (const { request, tokens, end } of runs) {
      expect((await end).finish).toBe("length");
      expect(tokens).toEqual(expected(request, VOCAB));
    }
    expect(engine.stats().preemptions).toBeGreaterThan(0);
    expect(engine.stats().preemptions).toBeLessThan(32 * 16);
    expect(idle(engine)).toEqual(IDLE);
  });

  it("finds the needle: one prompt among long fillers, 128 trials", async () => {
    const needle = makeRequest({ prompt: [9, 8, 7], maxTokens: 12 });
    const want = expected(needle, VOCAB);
    for (let trial = 0; trial < 128; trial++) {
      const { engine } = makeEngine({ blockCount: 80, maxSeqs: 8, maxBatchedTokens: 24 });
      const at = trial % 7;
      const runs = Array.from({ length: 7 }, (_, i) =>
        collect(
          engine,
          i === at
            ? { ...needle, id: `needle${trial}` }
            : makeRequest({ prompt: new Array<number>(30 + ((trial * 7 + i) % 50)).fill(i), maxTokens: 10 }),
        ),
      );
      await Promise.all(runs.map(({ end }) => end));
      expect(runs[at].tokens).toEqual(want);
    }
  });
});

describe("prompt scores", () => {
  it("come once for each prompt token but the first, whatever the chunks and preemptions", async () => {
    for (const blockCount of [33, 200]) {
      const { engine } = makeEngine({ blockCount, blockSize: 4, maxSeqs: 4, maxBatchedTokens: 7 });
      const runs = [0, 1, 2].map((first) => {
        const prompt = Array.from({ length: 60 }, (_, i) => (first + i * 5) % VOCAB);
        return collect(
          engine,
          makeRequest({ prompt, maxTokens: first * 20, scorePrompt: true, topLogprobs: 2 }),
        );
      });
      for (const { request, scored, end } of runs) {
        await end;
        const want = request.prompt
          .slice(1)
          .map((id, i) => scoreRow(fakeLogits(request.prompt.slice(0, i + 1), VOCAB), id, 2));
        expect(scored).toEqual(want);
      }
      expect(idle(engine)).toEqual(IDLE);
    }
  });

  it("max_tokens 0 computes the prompt and ends", async () => {
    const { engine } = makeEngine();
    const { tokens, end } = collect(engine, makeRequest({ maxTokens: 0 }));
    expect((await end).finish).toBe("length");
    expect(tokens).toEqual([]);
    expect(idle(engine)).toEqual(IDLE);
  });
});

describe.each(both)("abort, overlap $overlap", ({ overlap }) => {
  it("frees all blocks and leaves the companions' answers alone, at every step of a request's life", async () => {
    const target = makeRequest({ prompt: new Array<number>(30).fill(4), maxTokens: 6 });
    const life = 12;
    for (let at = 0; at < life; at++) {
      for (const where of ["before", "during"] as const) {
        const { engine, runner } = makeEngine({ overlap, maxSeqs: 4, maxBatchedTokens: 8 });
        const friends = [0, 1].map((i) => collect(engine, makeRequest({ prompt: [i, 2], maxTokens: 20 })));
        const gone = collect(engine, { ...target, id: `t${at}${where}` });
        let blocksAfter = -1;
        let tokensAtAbort = -1;
        runner.before = async () => {
          if (runner.steps !== at + 1) return;
          if (where === "during") await tick();
          engine.abort(gone.request.id);
          tokensAtAbort = gone.tokens.length;
          blocksAfter = engine.stats().blocksUsed;
        };
        const ends = await Promise.all([gone, ...friends].map(({ end }) => end));
        for (const friend of friends) expect(friend.tokens).toEqual(expected(friend.request, VOCAB));
        if (ends[0].finish === "abort") {
          expect(gone.tokens).toHaveLength(tokensAtAbort);
          expect(blocksAfter).toBeLessThanOrEqual(2 * 6);
        }
        expect(engine.abort(gone.request.id)).toBe(false);
        expect(gone.endings()).toBe(1);
        expect(idle(engine)).toEqual(IDLE);
      }
    }
  });

  it("works on a queued request, twice, and on an unknown id", async () => {
    const { engine } = makeEngine({ overlap, maxSeqs: 1 });
    const first = collect(engine, makeRequest());
    const queued = collect(engine, makeRequest());
    expect(engine.abort(queued.request.id)).toBe(true);
    expect(engine.abort(queued.request.id)).toBe(false);
    expect(engine.abort("nobody")).toBe(false);
    expect((await queued.end).finish).toBe("abort");
    expect((await first.end).finish).toBe("length");
    expect(first.tokens).toEqual(expected(first.request, VOCAB));
    expect(idle(engine)).toEqual(IDLE);
  });

  it("from a listener ends a companion of the same step without another event", async () => {
    const { engine } = makeEngine({ overlap });
    const second = makeRequest({ maxTokens: 3 });
    const first = collect(engine, makeRequest({ maxTokens: 3 }), ({ finish }) => {
      if (finish === "length") engine.abort(second.id);
    });
    const other = collect(engine, second);
    await first.end;
    expect((await other.end).finish).toBe("abort");
    expect(ids(other.tokens)).toEqual(ids(expected(second, VOCAB)).slice(0, 2));
    expect(idle(engine)).toEqual(IDLE);
  });
});

describe.each(both)("failures, overlap $overlap", ({ overlap }) => {
  it("F16: a runner that throws ends the requests of that step with an error; later ones work", async () => {
    const seen: unknown[] = [];
    const { engine, runner } = makeEngine({
      overlap,
      maxSeqs: 2,
      maxBatchedTokens: 64,
      onError: (error) => seen.push(error),
    });
    const runs = [0, 1, 2].map((i) => collect(engine, makeRequest({ prompt: [i], maxTokens: 4 })));
    runner.before = () => {
      if (runner.steps === 2) throw new Error("device lost");
    };
    const ends = await Promise.all(runs.map(({ end }) => end));
    expect(ends.map(({ finish }) => finish)).toEqual(["error", "error", "length"]);
    expect(ends[0].error).toMatchObject({ code: "engine_error", cause: { message: "device lost" } });
    expect(ends[0].error!.message).not.toContain("device lost");
    expect(seen).toHaveLength(1);
    expect(runs[2].tokens).toEqual(expected(runs[2].request, VOCAB));
    expect(idle(engine)).toEqual(IDLE);
  });

  it("F16: a bad row ends that request alone", async () => {
    const { engine, runner } = makeEngine({ overlap });
    const bad = makeRequest({ prompt: [1], maxTokens: 9 });
    const good = collect(engine, makeRequest({ prompt: [2], maxTokens: 9 }));
    const run = collect(engine, bad);
    runner.failItem = ({ id, start }) =>
      id === bad.id && start === 3 ? "logits that are not finite" : undefined;
    expect((await run.end).finish).toBe("error");
    expect(run.tokens).toHaveLength(3);
    expect((await good.end).finish).toBe("length");
    expect(good.tokens).toEqual(expected(good.request, VOCAB));
    expect(idle(engine)).toEqual(IDLE);
  });

  it("a step that hangs fails everything and refuses more, until it returns", async () => {
    const { engine, runner } = makeEngine({ overlap, limits: { stepMs: 20 } });
    let release = () => {};
    const hang = new Promise<void>((resolve) => {
      release = resolve;
    });
    runner.before = () => hang;
    const run = collect(engine, makeRequest());
    const event = await run.end;
    expect(event.error).toMatchObject({ code: "engine_unavailable" });
    expect(engine.state).toBe("hung");
    expect(() => collect(engine, makeRequest())).toThrow("does not respond");
    release();
    while (engine.state === "hung") await tick();
    const next = collect(engine, makeRequest());
    expect((await next.end).finish).toBe("length");
    expect(run.endings()).toBe(1);
    expect(idle(engine)).toEqual(IDLE);
  });
});

it("steps without a limit may take as long as they take", async () => {
  const { engine, runner } = makeEngine({ limits: { stepMs: Number.POSITIVE_INFINITY } });
  runner.before = () => new Promise((resolve) => setTimeout(resolve, 20));
  expect((await collect(engine, makeRequest()).end).finish).toBe("length");
});

describe("a step in flight", () => {
  const penalty = { ...GREEDY, presencePenalty: 1 };

  it("is followed by the next before its results are there, where none of these need be known", async () => {
    for (const [samplings, fed] of [
      [[GREEDY, GREEDY], 14],
      [[GREEDY, penalty], 0],
    ] as const) {
      const { engine, runner } = makeEngine({ overlap: true });
      const runs = samplings.map((sampling, i) =>
        collect(engine, makeRequest({ prompt: [i, 2], sampling, maxTokens: 8 })),
      );
      for (const { request, tokens, end } of runs) {
        await end;
        expect(tokens).toEqual(expected(request, VOCAB));
      }
      // The last token leads to nothing that is wanted.
      expect([runner.fed, runner.steps]).toEqual([fed, 8]);
    }
  });

  it("that a stop token ended is followed by one whose result is dropped, which a shutdown waits for", async () => {
    const { engine, runner } = makeEngine({ overlap: true });
    const plain = makeRequest({ maxTokens: 8 });
    const third = expected(plain, VOCAB)[2].id;
    const run = collect(engine, { ...plain, minTokens: 2, stopTokenIds: new Set([third]) });
    let finish = () => {};
    runner.before = () => (runner.steps === 4 ? new Promise<void>((resolve) => (finish = resolve)) : null);
    expect((await run.end).finish).toBe("stop");
    expect(run.tokens.at(-1)!.id).toBe(third);
    expect(idle(engine)).toEqual(IDLE);
    let drained = false;
    const end = engine.drain(10_000).then(() => (drained = true));
    for (let i = 0; i < 5; i++) await tick();
    expect([drained, runner.steps]).toEqual([false, 4]);
    finish();
    await end;
    expect(run.tokens).toHaveLength(3);
  });

  it("may take its time, and so may the one that follows it", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const { engine, runner } = makeEngine({ overlap: true, limits: { stepMs: 100 } });
    runner.before = () => new Promise((resolve) => setTimeout(resolve, 80));
    const run = collect(engine, makeRequest({ maxTokens: 4 }));
    for (let i = 0; run.endings() === 0; i++) {
      await tick();
      vi.advanceTimersByTime(5);
      expect(i).toBeLessThan(1000);
    }
    vi.useRealTimers();
    expect((await run.end).finish).toBe("length");
    expect(runner.fed).toBe(3);
  });

  it("shares the device with the one that follows it, unless somebody else waits", async () => {
    const share = new DeviceShare();
    const begun: string[] = [];
    const ends: Record<string, () => void> = {};
    const step = (name: string, follows: boolean) =>
      share.step(() => {
        begun.push(name);
        return new Promise<void>((resolve) => (ends[name] = resolve));
      }, follows);
    const first = step("a1", false);
    await tick();
    void [step("a2", true), step("b", false), step("a3", true)];
    expect(begun).toEqual(["a1", "a2"]);
    ends.a1();
    await first;
    expect(begun).toEqual(["a1", "a2"]);
    ends.a2();
    await tick();
    expect(begun).toEqual(["a1", "a2", "b"]);
    ends.b();
    await tick();
    expect(begun).toEqual(["a1", "a2", "b", "a3"]);
  });
});

describe("queue", () => {
  it("is bounded by requests and by tokens, and takes one call of any size when empty", async () => {
    const { engine } = makeEngine({ maxSeqs: 1, limits: { queuedRequests: 3, queuedTokens: 20 } });
    const runs = [0, 1, 2].map(() => collect(engine, makeRequest()));
    expect(() => collect(engine, makeRequest())).toThrow(expect.objectContaining({ code: "queue_full" }));
    for (const { end } of runs) await end;
    const full = [collect(engine, makeRequest({ prompt: new Array<number>(30).fill(1) }))];
    expect(() => collect(engine, makeRequest())).toThrow("waiting already");
    for (const { end } of full) await end;
    expect(idle(engine)).toEqual(IDLE);
  });

  it("F3: gives up a request that waits too long, not one that runs", async () => {
    const { engine, runner } = makeEngine({ maxSeqs: 1, limits: { queueWaitMs: 100 } });
    let now = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
    onTestFinished(() => clock.mockRestore());
    runner.before = async () => {
      now += 10;
    };
    const running = collect(engine, makeRequest({ maxTokens: 20 }));
    const waits = collect(engine, makeRequest());
    expect((await waits.end).error).toMatchObject({ code: "queue_timeout" });
    expect((await running.end).finish).toBe("length");
  });

  it("drains: accepted requests finish, new ones are refused, the rest is cut at the limit", async () => {
    const { engine } = makeEngine();
    const run = collect(engine, makeRequest({ maxTokens: 20 }));
    const drained = engine.drain(10_000);
    expect(() => collect(engine, makeRequest())).toThrow("shutting down");
    await drained;
    expect((await run.end).finish).toBe("length");

    const slow = makeEngine();
    slow.runner.before = () => new Promise((resolve) => setTimeout(resolve, 50));
    const cut = collect(slow.engine, makeRequest({ maxTokens: 100 }));
    await slow.engine.drain(20);
    expect((await cut.end).error).toMatchObject({ code: "shutting_down" });
    expect(idle(slow.engine)).toEqual(IDLE);
  });

  it("keeps blocks full while requests wait", async () => {
    const { engine, runner } = makeEngine({ blockCount: 40, maxSeqs: 32, maxBatchedTokens: 64 });
    const use: number[] = [];
    runner.before = () => {
      const { waiting, blocksUsed, blocksTotal } = engine.stats();
      if (waiting > 0) use.push(blocksUsed / blocksTotal);
    };
    const runs = Array.from({ length: 60 }, (_, i) =>
      collect(engine, makeRequest({ prompt: [i % VOCAB, i >> 5, 3, 4], maxTokens: 30 })),
    );
    await Promise.all(runs.map(({ end }) => end));
    const mean = use.reduce((a, b) => a + b, 0) / use.length;
    expect(mean).toBeGreaterThan(0.9);
  });
});
