import fc from "fast-check";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import type { SchedulerConfig } from "../serve/engine/scheduler.ts";
import type { Request } from "../serve/engine/types.ts";
import {
  collect,
  expected,
  ListedScheduler,
  makeEngine,
  makeRequest,
  send,
  startServer,
  until,
} from "./serve_fake.ts";
import { resultsOf, step as runStep } from "./support/serve_plans.ts";

/** One client's batch must not keep others from being served, and nobody may wait for ever. */
const make = (config: Partial<SchedulerConfig> = {}) =>
  new ListedScheduler({
    blockSize: 4,
    blockCount: 400,
    maxModelLen: 128,
    maxSeqs: 8,
    maxBatchedTokens: 32,
    agingSteps: 10,
    ...config,
  });
let prompts = 0;
/** Begins as no other does. */
const prompt = (length: number) => [100 + prompts++, ...new Array<number>(length).fill(1)].slice(0, length);

function add(
  scheduler: ListedScheduler,
  client: string,
  count = 1,
  { length = 4, ...options }: Partial<Request> & { length?: number } = {},
) {
  return Array.from({ length: count }, () =>
    scheduler.add(makeRequest({ client, prompt: prompt(length), maxTokens: 8, ...options })),
  );
}

const step = (scheduler: ListedScheduler) => runStep(scheduler).plan;

function runningBy(scheduler: ListedScheduler): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { running, request } of scheduler.sequences())
    if (running) counts[request.client] = (counts[request.client] ?? 0) + 1;
  return counts;
}

describe("fair shares", () => {
  it("serves a short request in the next step, though another's batch fills all slots for long", () => {
    const scheduler = make();
    const batch = add(scheduler, "batch", 256, { maxTokens: 100 });
    for (let i = 0; i < 20; i++) step(scheduler);
    const [short] = add(scheduler, "short");
    const plan = step(scheduler);
    expect(plan.items.map(({ id }) => id)).toContain(short!.request.id);
    // The batch gave one sequence up, its last; it comes back when the short one is done.
    expect(plan.preempted).toEqual([batch[7].request.id]);
    for (let i = 0; i < 8; i++) step(scheduler);
    expect(scheduler.get(short!.request.id)).toBeUndefined();
    expect(batch[7].running).toBe(true);
  });

  it("come about whoever was first, and go with who leaves", () => {
    const scheduler = make();
    const endless = { maxTokens: 100 };
    add(scheduler, "a", 30, endless);
    step(scheduler);
    expect(runningBy(scheduler)).toEqual({ a: 8 });
    add(scheduler, "b", 30, endless);
    step(scheduler);
    expect(runningBy(scheduler)).toEqual({ a: 4, b: 4 });
    const c = add(scheduler, "c", 2, endless);
    step(scheduler);
    expect(runningBy(scheduler)).toEqual({ a: 3, b: 3, c: 2 });
    for (const { request } of c) scheduler.remove(request.id);
    step(scheduler);
    expect(runningBy(scheduler)).toEqual({ a: 4, b: 4 });
  });

  it("are even in any traffic: who waits runs at most one less than anybody (property)", () => {
    const op = fc.record({
      client: fc.constantFrom("a", "b", "c", "d"),
      count: fc.nat(12),
      length: fc.integer({ min: 1, max: 20 }),
      maxTokens: fc.integer({ min: 1, max: 30 }),
      steps: fc.nat(4),
    });
    fc.assert(
      fc.property(fc.array(op, { maxLength: 30 }), fc.integer({ min: 1, max: 9 }), (ops, maxSeqs) => {
        const scheduler = make({ maxSeqs });
        const check = () => {
          const plan = scheduler.schedule();
          const { preempted, items } = plan;
          expect(items.length).toBe(Math.min(maxSeqs, scheduler.sequences().length));
          expect(new Set(preempted).size).toBe(preempted.length);
          const counts = runningBy(scheduler);
          const most = Math.max(...Object.values(counts));
          const waiting = scheduler.sequences().filter(({ running }) => !running);
          const least = Math.min(most, ...waiting.map(({ request }) => counts[request.client] ?? 0));
          expect(least).toBeGreaterThanOrEqual(most - 1);
          scheduler.advance(plan, resultsOf(scheduler, plan));
        };
        for (const { client, count, length, maxTokens, steps } of ops) {
          add(scheduler, client, count, { length, maxTokens });
          for (let i = 0; i < steps; i++) check();
        }
        let left = 0;
        while (scheduler.sequences().length > 0) {
          check();
          expect(left++).toBeLessThan(30_000);
        }
        expect(scheduler.pool.used).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  it("starve nobody under a flood in which each request is a client of its own", () => {
    const scheduler = make({ maxSeqs: 4 });
    const batch = add(scheduler, "batch", 6);
    let steps = 0;
    while (batch.some(({ request }) => scheduler.get(request.id) !== undefined)) {
      // More than there is room for, as many as a queue would hold.
      while (scheduler.waiting < 20) add(scheduler, `flood ${steps}/${scheduler.waiting}`);
      step(scheduler);
      expect(steps++).toBeLessThan(400);
    }
  });

  it("share what a step computes of prompts by client, not by prompt", () => {
    const scheduler = make({ maxSeqs: 8, maxBatchedTokens: 48 });
    add(scheduler, "batch", 7, { length: 100 });
    const [short] = add(scheduler, "short", 1, { length: 60 });
    const plan = step(scheduler);
    // 48 tokens: one for each sequence, and half of the rest.
    expect(plan.items.find(({ id }) => id === short!.request.id)!.count).toBe(21);
    expect(plan.items.reduce((sum, { count }) => sum + count, 0)).toBe(48);
  });

  it("come after priority, and a low priority ages until it is one among equals", () => {
    const scheduler = make({ maxSeqs: 1 });
    const [low] = add(scheduler, "low", 1, { priority: 1, maxTokens: 1 });
    let steps = 0;
    while (low!.computed === 0) {
      for (let i = 0; i < 2; i++) add(scheduler, `other ${i}`, 1, { maxTokens: 1 });
      step(scheduler);
      steps++;
      expect(steps).toBeLessThan(50);
    }
    // Ten steps until it equals the others, whose turns were later than its own.
    expect(steps).toBe(10);
  });

  it("of memory: a client that runs many gives blocks to one that runs none", () => {
    const scheduler = make({ blockCount: 40 });
    const batch = add(scheduler, "batch", 30, { length: 16, maxTokens: 100 });
    for (let i = 0; i < 10; i++) step(scheduler);
    expect(scheduler.running).toBeLessThan(8);
    const [short] = add(scheduler, "short", 1, { length: 30, maxTokens: 1 });
    step(scheduler);
    expect(short!.computed).toBeGreaterThan(0);
    while (scheduler.get(short!.request.id) !== undefined) step(scheduler);
    // More than a fair share of the blocks is waited for.
    const [long] = add(scheduler, "long", 1, { length: 120, maxTokens: 1 });
    const before = runningBy(scheduler);
    expect(step(scheduler).preempted).toEqual([]);
    expect(runningBy(scheduler)).toEqual(before);
    for (let i = 0; scheduler.get(long!.request.id) !== undefined; i++) {
      step(scheduler);
      expect(i).toBeLessThan(1000);
    }
    expect(batch[0].running || scheduler.get(batch[0].request.id) === undefined).toBe(true);
  });
});

describe("the queue", () => {
  it("gives up a submission only before its first step", async () => {
    const { engine, runner } = makeEngine({ maxSeqs: 2, limits: { queueWaitMs: 60 } });
    let now = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
    onTestFinished(() => clock.mockRestore());
    // Real milliseconds might pass before the first step.
    runner.before = async () => {
      now += 10;
    };
    const requests = Array.from({ length: 8 }, () => makeRequest({ maxTokens: 8 }));
    const ends = new Map<string, string>();
    const listen = (id: string) => (event: { finish: string | null }) => {
      if (event.finish !== null) ends.set(id, event.finish);
    };
    engine.submit(requests.map((request) => ({ request, listener: listen(request.id) })));
    const late = collect(engine, makeRequest());
    expect((await late.end).error).toMatchObject({ code: "queue_timeout" });
    await until(() => ends.size === 8);
    expect(new Set(ends.values())).toEqual(new Set(["length"]));
  });

  it("that one client filled still takes another's share", async () => {
    const { engine } = makeEngine({ maxSeqs: 1, limits: { queuedRequests: 8 } });
    const of = (client: string) => collect(engine, makeRequest({ client }));
    const runs = Array.from({ length: 8 }, () => of("a"));
    expect(() => of("a")).toThrow("waiting already");
    runs.push(...Array.from({ length: 4 }, () => of("b")));
    expect(() => of("b")).toThrow("waiting already");
    expect(() => of("a")).toThrow("waiting already");
    runs.push(of("c"));
    for (const { end } of runs) expect((await end).finish).toBe("length");
  });

  it("changes no answer when a running request makes way", async () => {
    const { engine } = makeEngine({ maxSeqs: 4, maxBatchedTokens: 16 });
    const batch = Array.from({ length: 12 }, (_, i) =>
      collect(engine, makeRequest({ client: "batch", prompt: [i, 2, 3], maxTokens: 30 })),
    );
    const short: ReturnType<typeof collect>[] = [];
    for (let i = 0; i < 20; i++) {
      await new Promise((resolve) => setImmediate(resolve));
      short.push(collect(engine, makeRequest({ client: "short", prompt: [i, 9], maxTokens: 3 })));
    }
    for (const { request, tokens, end } of [...batch, ...short]) {
      expect((await end).finish).toBe("length");
      expect(tokens).toEqual(expected(request, 32));
    }
    expect(engine.stats().preemptions).toBeGreaterThan(0);
  });
});

describe("over HTTP", () => {
  const body = { model: "tiny/fake", prompt: [1, 2, 3], max_tokens: 40, ignore_eos: true };
  const ask = (url: string, json: object, key?: string) =>
    send(`${url}/v1/completions`, {
      json: { ...body, ...json },
      headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
    });

  it("a short request does not wait for a batch of 256 prompts, by connection and by key", async () => {
    for (const keys of [[], ["x", "y"]]) {
      const { server, url, runner, engine } = await startServer({
        maxSeqs: 8,
        ...(keys.length > 0 ? { apiKey: keys } : {}),
      });
      let batchDone = false;
      const batch = ask(url, { prompt: new Array(256).fill([1, 2, 3]) }, keys[0]).then((answer) => {
        batchDone = true;
        return answer;
      });
      await until(() => engine.stats().running === 8);
      const before = runner.steps;
      expect((await ask(url, { max_tokens: 4 }, keys[1])).status).toBe(200);
      // Its four tokens, and what may pass between a step and the sockets.
      expect(runner.steps - before).toBeLessThan(20);
      expect(batchDone).toBe(false);
      expect((await batch).body.choices).toHaveLength(256);
      await server.close();
    }
  });

  it("priority is for the keys that may", async () => {
    const keyed = await startServer({ apiKey: "plain", priorityKeys: ["chief"] });
    expect((await ask(keyed.url, { priority: -1 }, "chief")).status).toBe(200);
    expect((await ask(keyed.url, { priority: 0 }, "plain")).status).toBe(200);
    const refused = await ask(keyed.url, { priority: -1 }, "plain");
    expect([refused.status, refused.body.error.param]).toEqual([403, "priority"]);
    expect((await ask(keyed.url, {}, "neither")).status).toBe(401);
    expect((await ask(keyed.url, {})).status).toBe(401);
    await keyed.server.close();
    const open = await startServer();
    expect((await ask(open.url, { priority: 5 })).status).toBe(403);
    expect((await ask(open.url, { priority: null })).status).toBe(200);
    await open.server.close();
  });
});
