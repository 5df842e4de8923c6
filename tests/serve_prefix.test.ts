import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PrefixIndex, ROOT } from "../serve/engine/prefix.ts";
import type { Request } from "../serve/engine/types.ts";
import {
  collect,
  expected,
  IDLE,
  idle,
  ListedScheduler,
  makeEngine,
  makeRequest,
  startServer,
} from "./serve_fake.ts";
import { checkPlan, resultsOf, step } from "./support/serve_plans.ts";

const counting = (length: number, from = 0) => Array.from({ length }, (_, i) => (from + i) % 32);

function make(config: Partial<ListedScheduler["config"]> = {}) {
  return new ListedScheduler({
    ...{ blockSize: 4, blockCount: 100, maxModelLen: 128, maxSeqs: 8, maxBatchedTokens: 64, agingSteps: 10 },
    ...config,
  });
}

/** Runs until nobody is left; returns each sequence's tokens that the cache held. */
function finish(scheduler: ListedScheduler): number[] {
  const sequences = scheduler.sequences();
  for (let i = 0; scheduler.sequences().length > 0; i++) {
    step(scheduler);
    expect(i).toBeLessThan(1000);
  }
  return sequences.map(({ cachedTokens }) => cachedTokens!);
}

describe("the index of prefixes", () => {
  it("finds a block exactly where all parents, the tokens and what keeps apart are equal (property)", () => {
    const blockSize = 2;
    const path = fc.record({
      apart: fc.constantFrom("", '[null,"a"]', '["x",null]'),
      tokens: fc.array(fc.constantFrom(0, 1, 2 ** 16, 2 ** 20 + 1), { minLength: 2, maxLength: 10 }),
    });
    fc.assert(
      fc.property(
        fc.array(path, { maxLength: 40 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (paths, leave) => {
          const index = new PrefixIndex(256, blockSize);
          const naive = new Map<string, number>();
          const key = (apart: string, tokens: number[], end: number) =>
            JSON.stringify([apart, tokens.slice(0, end)]);
          let blocks = 0;
          const check = () => {
            for (const { apart, tokens } of paths) {
              let parent = ROOT;
              for (let end = blockSize; end <= tokens.length; end += blockSize) {
                const found = index.find(parent, tokens, end - blockSize, apart);
                expect(found).toBe(naive.get(key(apart, tokens, end)) ?? -1);
                if (found < 0) break;
                parent = found;
              }
            }
          };
          for (const { apart, tokens } of paths) {
            let parent = ROOT;
            for (let end = blockSize; end <= tokens.length; end += blockSize) {
              let block = index.find(parent, tokens, end - blockSize, apart);
              if (block < 0) {
                block = blocks++;
                index.add(block, parent, tokens, end - blockSize, apart);
                naive.set(key(apart, tokens, end), block);
              }
              parent = block;
            }
          }
          check();
          // Prefixes that no other continues leave, in any order.
          for (const pick of leave) {
            const ends = [...naive.keys()].filter(
              (one) =>
                ![...naive.keys()].some((other) => other !== one && other.startsWith(one.slice(0, -2))),
            );
            if (ends.length === 0) break;
            const gone = ends[pick % ends.length];
            index.delete(naive.get(gone)!);
            naive.delete(gone);
          }
          check();
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe("a cached prefix", () => {
  it("is not computed again, but for the last token at least", () => {
    for (const [length, cached] of [
      [3, 0],
      [4, 0],
      [5, 4],
      [40, 36],
      [41, 40],
    ]) {
      const scheduler = make();
      const prompt = counting(length);
      scheduler.add(makeRequest({ prompt, maxTokens: 2 }));
      expect(finish(scheduler)).toEqual([0]);
      scheduler.add(makeRequest({ prompt, maxTokens: 2 }));
      const { items } = scheduler.schedule();
      expect(items).toMatchObject([{ start: cached, count: length - cached }]);
    }
  });

  it("holds the answer too: a conversation's next turn computes what is new", () => {
    const scheduler = make();
    const prompt = counting(10);
    scheduler.add(makeRequest({ prompt, maxTokens: 7 }));
    finish(scheduler);
    // Of ten tokens and an answer of seven 7s, the last was never computed: 16 positions are full blocks.
    scheduler.add(makeRequest({ prompt: [...prompt, ...new Array<number>(7).fill(7), 1, 2] }));
    expect(finish(scheduler)).toEqual([16]);
  });

  it("F29: is shared neither between adapters nor between salts", () => {
    const scheduler = make();
    const others: Partial<Request>[] = [
      {},
      { cacheSalt: "a" },
      { cacheSalt: "b" },
      { adapter: "a" },
      { adapter: "a", cacheSalt: "a" },
    ];
    for (const options of others) {
      for (const cached of [0, 16]) {
        scheduler.add(makeRequest({ prompt: counting(20), ...options }));
        expect(finish(scheduler)).toEqual([cached]);
      }
    }
  });

  it("is of no use where every row of the prompt is scored, until it was", () => {
    const scheduler = make({ blockCount: 33 });
    const score = { prompt: counting(21), maxTokens: 20, scorePrompt: true };
    scheduler.add(makeRequest(score));
    finish(scheduler);
    const scored = scheduler.add(makeRequest(score));
    step(scheduler);
    expect([scored.cachedTokens, scored.computed]).toEqual([0, 21]);
    // The blocks run out; it comes back to those of its own.
    for (let i = 0; scored.preemptions === 0; i++) {
      const hostages = scheduler.pool.alloc(scheduler.pool.free)!;
      const plan = scheduler.schedule();
      for (const block of hostages) scheduler.pool.release(block);
      scheduler.advance(plan, resultsOf(scheduler, plan));
      expect(i).toBeLessThan(20);
    }
    const length = scored.tokens.length;
    expect(scheduler.schedule().items[0].start).toBe(Math.floor((length - 1) / 4) * 4);
    expect(scored.cachedTokens).toBe(0);
  });

  it("that a running sequence holds is never forgotten", () => {
    const scheduler = make({ blockCount: 33 });
    const holder = scheduler.add(makeRequest({ prompt: counting(40), maxTokens: 80 }));
    step(scheduler);
    const blocks = [...holder.table.blocks].slice(0, 10);
    // More than the rest of the pool, one after the other.
    for (let i = 0; i < 8; i++) {
      const other = scheduler.add(makeRequest({ prompt: counting(60, i + 1), maxTokens: 1 }));
      while (scheduler.get(other.request.id) !== undefined) step(scheduler);
    }
    expect([...holder.table.blocks].slice(0, 10)).toEqual(blocks);
    const again = scheduler.add(makeRequest({ prompt: counting(40), maxTokens: 1 }));
    step(scheduler);
    expect(again.cachedTokens).toBe(36);
  });

  it("of an unfinished step is not known", () => {
    const scheduler = make();
    scheduler.add(makeRequest({ client: "a", prompt: counting(20) }));
    const plan = scheduler.schedule();
    checkPlan(scheduler, plan);
    const late = scheduler.add(makeRequest({ client: "b", prompt: counting(20) }));
    scheduler.remove(plan.items[0].id);
    scheduler.advance(plan, []);
    finish(scheduler);
    expect(late.cachedTokens).toBe(0);
  });
});

describe("choices of one prompt", () => {
  it("use its blocks once, and at most one block more each", () => {
    for (const length of [17, 18, 19, 20, 21]) {
      const scheduler = make({ blockCount: 200 });
      const choices = Array.from({ length: 4 }, () =>
        scheduler.add(makeRequest({ prompt: counting(length), maxTokens: 12 })),
      );
      let computed = 0;
      while (choices.some(({ tokens }) => tokens.length === length)) {
        const { plan } = step(scheduler);
        computed += plan.items.reduce((sum, { count }) => sum + count, 0);
      }
      const whole = Math.floor((length - 1) / 4);
      const shared = [...choices[0].table.blocks].slice(0, whole);
      for (const { table } of choices) expect([...table.blocks].slice(0, whole)).toEqual(shared);
      // The first computes it all and decodes once while the others compute what is no full block.
      expect(computed).toBe(length + 1 + 3 * (length - 4 * whole));
      const most = Math.max(...choices.map(({ table }) => table.blocks.length));
      expect(scheduler.pool.used).toBeLessThanOrEqual(whole + 4 * (most - whole));
      expect(new Set(choices.flatMap(({ table }) => [...table.blocks])).size).toBe(scheduler.pool.used);
      expect(finish(scheduler)).toEqual([0, 4 * whole, 4 * whole, 4 * whole]);
    }
  });

  it("do not wait for one that left, and the next of them computes the prompt", () => {
    const scheduler = make({ maxBatchedTokens: 16 });
    const [first, ...others] = Array.from({ length: 4 }, () =>
      scheduler.add(makeRequest({ prompt: counting(60), maxTokens: 2 })),
    );
    expect(step(scheduler).plan.items).toHaveLength(1);
    expect(step(scheduler).plan.items).toHaveLength(1);
    scheduler.remove(first.request.id);
    const { items } = step(scheduler).plan;
    expect(items).toMatchObject([{ id: others[0].request.id, start: 32, count: 16 }]);
    expect(finish(scheduler)).toEqual([32, 56, 56]);
  });

  it("with salts of their own do not wait for each other", () => {
    const scheduler = make();
    for (const cacheSalt of ["a", "b"]) scheduler.add(makeRequest({ prompt: counting(60), cacheSalt }));
    expect(step(scheduler).plan.items).toHaveLength(2);
  });

  it("of one client wait for each other, but no client waits for another", () => {
    const scheduler = make({ maxBatchedTokens: 16 });
    const [, own, other] = ["a", "a", "b"].map((client) =>
      scheduler.add(makeRequest({ client, prompt: counting(60), maxTokens: 1 })),
    );
    const ids = step(scheduler).plan.items.map(({ id }) => id);
    expect(ids).toContain(other.request.id);
    expect(ids).not.toContain(own.request.id);
  });

  it("that another computes at the same time end in one block each", () => {
    const scheduler = make();
    const both = ["a", "b"].map((client) =>
      scheduler.add(makeRequest({ client, prompt: counting(20), maxTokens: 8 })),
    );
    step(scheduler);
    expect(both[1].table.blocks.slice(0, 5)).toEqual(both[0].table.blocks.slice(0, 5));
    expect(scheduler.pool.used).toBe(5);
    step(scheduler);
    expect(scheduler.pool.used).toBe(7);
  });
});

describe("answers from a cache", () => {
  it("are those without one, whatever was asked before", async () => {
    const { engine } = makeEngine({ blockCount: 40, maxSeqs: 4, maxBatchedTokens: 16 });
    const hits: number[] = [];
    for (let round = 0; round < 6; round++) {
      const runs = Array.from({ length: 5 }, (_, i) => {
        const prompt = [...counting(8 + 4 * (i % 3)), ...counting(i + 3, round)];
        return collect(engine, makeRequest({ prompt, maxTokens: 10 + i }));
      });
      for (const { request, tokens, end } of runs) {
        hits.push((await end).cachedTokens);
        expect(tokens).toEqual(expected(request, 32));
      }
      expect(idle(engine)).toEqual(IDLE);
    }
    expect(hits.filter((count) => count > 0).length).toBeGreaterThan(15);
    expect(engine.stats().cachedTokens).toBe(hits.reduce((a, b) => a + b, 0));
    expect(engine.stats().blocksCached).toBeGreaterThan(0);
  });
});

describe("over HTTP", () => {
  it("usage tells the prompt tokens that were cached, which a salt of one's own prevents", async () => {
    const { server, client } = await startServer();
    const cached = async (body: object) => {
      const asked = { model: "tiny/fake", prompt: counting(21), max_tokens: 4, ...body };
      const { usage } = await client.completions.create(asked);
      expect(usage!.prompt_tokens).toBe(21 * ("prompt" in body ? 2 : 1));
      return usage!.prompt_tokens_details!.cached_tokens;
    };
    expect(await cached({})).toBe(0);
    expect(await cached({})).toBe(20);
    // The prompt counts once, however many choices read what the first computed.
    expect(await cached({ n: 3, cache_salt: "mine" })).toBe(0);
    expect(await cached({ n: 3, cache_salt: "mine" })).toBe(20);
    expect(await cached({ prompt: [counting(21, 5), counting(21, 5)] })).toBe(20);
    expect(await cached({ echo: true, logprobs: 1 })).toBe(0);
    await expect(cached({ cache_salt: "" })).rejects.toThrow("cache_salt");
    await server.close();
  });

  it("a stream's usage tells it too", async () => {
    const { server, client } = await startServer();
    const body = { model: "tiny/fake", prompt: counting(21), max_tokens: 4, stream: true as const };
    const cached: unknown[] = [];
    for (let i = 0; i < 2; i++) {
      for await (const { usage } of await client.completions.create({
        ...body,
        stream_options: { include_usage: true },
      })) {
        if (usage) cached.push(usage.prompt_tokens_details!.cached_tokens);
      }
    }
    expect(cached).toEqual([0, 20]);
    await server.close();
  });
});
