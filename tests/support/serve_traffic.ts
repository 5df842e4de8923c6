import type { StepPlan } from "../../serve/engine/types.ts";
import { ListedScheduler, makeRequest } from "../serve_fake.ts";
import { checkBlocks, checkPlan, resultsOf } from "./serve_plans.ts";

/** Numbers below `n`, the same for the same seed (Mulberry32). */
export function randomBelow(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
  };
}

/**
 * Random requests in words of two, so that prefixes meet all the time, on 100 blocks: added, stepped, aborted (also during a
 * step), forked, preempted and evicted. Every invariant is checked after every operation; a failure names the seed.
 */
export function randomTraffic(seed: number, operations: number) {
  const below = randomBelow(seed);
  /** Whether each step is planned before the results of the one before it. */
  const ahead = below(2) === 1;
  const blockSize = [1, 2, 3, 8][below(4)];
  const scheduler = new ListedScheduler({
    ...{ blockSize, blockCount: 100, maxModelLen: 99 * blockSize, agingSteps: 10 },
    ...{ maxSeqs: 1 + below(12), maxBatchedTokens: 12 + below(60) },
  });
  const counts = { steps: 0, hits: 0, preempted: 0, evicted: 0, finished: 0 };
  const remove = () => {
    const all = scheduler.sequences();
    if (all.length > 0) scheduler.remove(all[below(all.length)].request.id);
  };
  const add = (prompt: number[]) => {
    const maxTokens = below(1 + Math.min(40, scheduler.config.maxModelLen - prompt.length));
    const client = ["a", "a", "b", "c"][below(4)];
    const cacheSalt = below(8) === 0 ? "salt" : null;
    const scorePrompt = below(10) === 0;
    scheduler.add(makeRequest({ prompt, maxTokens, client, cacheSalt, scorePrompt, priority: below(3) }));
  };
  let flight: StepPlan | null = null;
  const land = () => {
    if (flight === null) return;
    const results = resultsOf(scheduler, flight, () => below(2));
    counts.finished += scheduler.advance(flight, results).filter(({ finish }) => finish !== null).length;
    flight = null;
  };
  const runStep = (during: () => void) => {
    const plan = scheduler.schedule(flight !== null);
    checkPlan(scheduler, plan, flight !== null);
    during();
    counts.preempted += plan.preempted.length;
    counts.steps++;
    land();
    if (plan.items.length > 0) flight = plan;
    if (!ahead) land();
  };
  const operation = [
    () => {
      const length = 1 + below(Math.min(60, scheduler.config.maxModelLen - 1));
      if (scheduler.sequences().length < 40) add(Array.from({ length }, () => below(2)));
    },
    // Another answer to somebody's prompt, or what follows it.
    () => {
      const all = scheduler.sequences();
      if (all.length === 0 || all.length >= 40) return;
      const { tokens, request } = all[below(all.length)];
      if (tokens.length < scheduler.config.maxModelLen) add(below(2) ? [...tokens] : [...request.prompt]);
    },
    remove,
    () => runStep(remove),
    // Nothing is free for a moment: whoever needs a block takes it from somebody.
    () => {
      land();
      const hostages = scheduler.pool.alloc(scheduler.pool.free)!;
      const plan = scheduler.schedule();
      for (const block of hostages) scheduler.pool.release(block);
      counts.preempted += plan.preempted.length;
      counts.evicted += hostages.length;
      scheduler.advance(
        plan,
        resultsOf(scheduler, plan, () => below(2)),
      );
    },
    () => {
      const taken = scheduler.pool.alloc(below(scheduler.pool.free + 1))!;
      for (const block of taken) scheduler.pool.release(block);
      counts.evicted += taken.length;
    },
  ];
  /** Of 16 operations: four requests, two forks, an abort, one during a step, six steps, a preemption, an eviction. */
  const weights = [4, 2, 1, 1, 1, 1];
  const order = weights.flatMap((weight, i) => new Array<number>(weight).fill(i));
  try {
    for (let i = 0; i < operations; i++) {
      const pick = below(16);
      if (pick < order.length) operation[order[pick]]();
      else runStep(() => {});
      const sequences = scheduler.sequences();
      checkBlocks(scheduler, sequences);
      counts.hits += sequences.filter(({ cachedTokens }) => cachedTokens !== null && cachedTokens > 0).length;
    }
    for (let i = 0; scheduler.sequences().length > 0; i++) {
      if (i > 20_000) throw new Error("it never ends");
      runStep(() => {});
    }
    const { running, waiting, pool } = scheduler;
    if (running + waiting + pool.used > 0)
      throw new Error(`${running}, ${waiting} and ${pool.used} are left`);
  } catch (cause) {
    throw new Error(`random traffic of seed ${seed}: ${(cause as Error).message}`, { cause });
  }
  return counts;
}
