import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { SchedulerConfig } from "../serve/engine/scheduler.ts";
import { ListedScheduler, makeRequest } from "./serve_fake.ts";
import { checkPlan, resultsOf, step } from "./support/serve_plans.ts";

const CONFIG: SchedulerConfig = {
  blockSize: 4,
  blockCount: 100,
  maxModelLen: 128,
  maxSeqs: 8,
  maxBatchedTokens: 16,
  agingSteps: 10,
};

const make = (config: Partial<SchedulerConfig> = {}) => new ListedScheduler({ ...CONFIG, ...config });
let prompts = 0;
/** Begins as no other does. */
const prompt = (length: number) => [100 + prompts++, ...new Array<number>(length).fill(1)].slice(0, length);

describe("scheduler", () => {
  it("needs blocks for one request of full length, and budget for all sequences", () => {
    expect(() => make({ blockCount: 32 })).toThrow("needs 33");
    expect(() => make({ blockCount: 33 })).not.toThrow();
    expect(() => make({ maxBatchedTokens: 7 })).toThrow("at least the number of sequences");
  });

  it("refuses what can never fit", () => {
    expect(() => make().add(makeRequest({ prompt: prompt(121), maxTokens: 8 }))).toThrow("cannot fit");
    expect(() => make().add(makeRequest({ prompt: [] }))).toThrow("at least one");
  });

  it("cuts a long prompt into chunks of the budget and decodes beside it", () => {
    const scheduler = make();
    const short = scheduler.add(makeRequest({ prompt: prompt(2), maxTokens: 20 }));
    step(scheduler);
    const long = scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 2 }));
    const counts = Array.from({ length: 3 }, () => step(scheduler).plan.items);
    expect(counts.map((items) => items.find(({ id }) => id === long.request.id)!.count)).toEqual([
      15, 15, 10,
    ]);
    for (const items of counts) expect(items.find(({ id }) => id === short.request.id)!.count).toBe(1);
  });

  it("shares the budget: a short prompt does not wait behind a long one", () => {
    const scheduler = make();
    scheduler.add(makeRequest({ prompt: prompt(100) }));
    step(scheduler);
    const short = scheduler.add(makeRequest({ prompt: prompt(8) }));
    const { advanced } = step(scheduler);
    expect(advanced.find(({ sequence }) => sequence === short)!.sequence.tokens).toHaveLength(9);
  });

  it("preempts the last in order when blocks run out, and runs it again later", () => {
    const scheduler = make({ blockCount: 33, maxSeqs: 3 });
    const [a, b, c] = [0, 1, 2].map(() => scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 40 })));
    const preempted: string[] = [];
    const finished: string[] = [];
    for (let i = 0; i < 300 && finished.length < 3; i++) {
      const { plan, advanced } = step(scheduler);
      preempted.push(...plan.preempted);
      finished.push(...advanced.filter(({ finish }) => finish).map(({ sequence }) => sequence.request.id));
    }
    expect(finished).toEqual([a, b, c].map((sequence) => sequence!.request.id));
    expect(preempted[0]).toBe(c!.request.id);
    expect(preempted).not.toContain(a!.request.id);
    expect(scheduler.pool.used).toBe(0);
  });

  it("spares who was preempted three times, but not from its betters", () => {
    for (const better of [0, -1]) {
      const scheduler = make({ blockCount: 33, agingSteps: 1000 });
      const first = scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 60, priority: better }));
      const second = scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 60 }));
      while (second.preemptions < 3) {
        while (scheduler.running < 2) step(scheduler);
        // For a moment no block is free.
        const taken = scheduler.pool.alloc(scheduler.pool.free)!;
        const plan = scheduler.schedule();
        for (const block of taken) scheduler.pool.release(block);
        scheduler.advance(plan, resultsOf(scheduler, plan));
        if (plan.preempted.length > 0) expect(plan.preempted).toEqual([second.request.id]);
      }
      let preempted: readonly string[] = [];
      while (preempted.length === 0) preempted = step(scheduler).plan.preempted;
      expect(preempted).toEqual([(better === 0 ? first : second).request.id]);
    }
  });

  it("prefers priority as victim over arrival", () => {
    const scheduler = make({ blockCount: 33, maxSeqs: 3 });
    const low = scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 40, priority: 1 }));
    for (let i = 0; i < 2; i++) scheduler.add(makeRequest({ prompt: prompt(40), maxTokens: 40 }));
    let first: readonly string[] = [];
    while (first.length === 0) first = step(scheduler).plan.preempted;
    expect(first).toEqual([low.request.id]);
  });

  it("starves nobody: a low priority overtakes newcomers after agingSteps per level", () => {
    const scheduler = make({ maxSeqs: 1, maxBatchedTokens: 16 });
    const low = scheduler.add(makeRequest({ prompt: prompt(4), maxTokens: 1, priority: 2 }));
    let steps = 0;
    while (low.computed === 0) {
      scheduler.add(makeRequest({ prompt: prompt(4), maxTokens: 1 }));
      step(scheduler);
      steps++;
      expect(steps).toBeLessThan(50);
    }
    // One request is served per step and one arrives per step: 2 levels of 10 steps, plus its own.
    expect(steps).toBe(21);
  });

  it("serves a long prompt in time under a flood of short ones", () => {
    const scheduler = make();
    const long = scheduler.add(makeRequest({ prompt: prompt(100), maxTokens: 1 }));
    let steps = 0;
    while (long.computed < 100) {
      for (let i = 0; i < 4; i++) scheduler.add(makeRequest({ prompt: prompt(3), maxTokens: 2 }));
      step(scheduler);
      steps++;
      expect(steps).toBeLessThan(100);
    }
    // 8 sequences and 16 tokens: at least its own token and a share of the 8 spare ones each step.
    expect(steps).toBeLessThanOrEqual(50);
  });

  it("drops results of a sequence that left during the step", () => {
    const scheduler = make();
    const gone = scheduler.add(makeRequest());
    const stays = scheduler.add(makeRequest());
    const plan = scheduler.schedule();
    const result = resultsOf(scheduler, plan);
    expect(scheduler.remove(gone.request.id)).toBe(true);
    expect(scheduler.remove(gone.request.id)).toBe(false);
    expect(scheduler.advance(plan, result).map(({ sequence }) => sequence)).toEqual([stays]);
  });

  it("keeps every invariant under random traffic in a tight pool", () => {
    const op = fc.record({
      kind: fc.constantFrom("add", "add", "abort", "abort mid-step", "step", "step", "step", "step"),
      length: fc.integer({ min: 1, max: 90 }),
      maxTokens: fc.nat(38),
      priority: fc.integer({ min: -2, max: 2 }),
      client: fc.constantFrom("a", "a", "b", "c"),
      pick: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(op, { maxLength: 200 }), fc.constantFrom(1, 3, 4, 16), (ops, blockSize) => {
        const scheduler = make({ blockSize, blockCount: Math.ceil(128 / blockSize) + 2 });
        let open = 0;
        const remove = (pick: number) => {
          const ids = scheduler.sequences().map(({ request }) => request.id);
          if (ids.length > 0 && scheduler.remove(ids[pick % ids.length])) open--;
        };
        const runStep = (abort: number | null) => {
          const plan = scheduler.schedule();
          checkPlan(scheduler, plan);
          const result = resultsOf(scheduler, plan);
          if (abort !== null) remove(abort);
          open -= scheduler.advance(plan, result).filter(({ finish }) => finish !== null).length;
        };
        for (const { kind, length, maxTokens, priority, client, pick } of ops) {
          if (kind === "add") {
            scheduler.add(makeRequest({ prompt: prompt(length), maxTokens, priority, client }));
            open++;
          } else if (kind === "abort") remove(pick);
          else runStep(kind === "step" ? null : pick);
        }
        for (let i = 0; open > 0; i++) {
          expect(i).toBeLessThan(20_000);
          runStep(null);
        }
        expect([scheduler.running, scheduler.waiting, scheduler.pool.used]).toEqual([0, 0, 0]);
      }),
      { numRuns: 60 },
    );
  });
});
