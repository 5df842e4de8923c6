import { expect, it } from "vitest";
import { collect, expected, IDLE, idle, makeEngine, makeRequest } from "./serve_fake.ts";

it.each([false, true])(
  "F6: half of 64 that leave in one step leave the others' tokens and scores as they are, overlap %s",
  async (overlap) => {
    const { engine, runner } = makeEngine({ overlap, maxSeqs: 64, blockCount: 1000, maxBatchedTokens: 256 });
    const runs = Array.from({ length: 64 }, (_, i) =>
      collect(engine, makeRequest({ prompt: [i % 7, i % 5, (i * 11) % 32], maxTokens: 20, topLogprobs: 2 })),
    );
    const leaves = (i: number) => (i * 37) % 64 < 32;
    runner.before = (items) => {
      if (runner.steps !== 9) return;
      expect(items.length).toBe(64);
      for (const [i, { request }] of runs.entries()) if (leaves(i)) engine.abort(request.id);
    };
    const ends = await Promise.all(runs.map(({ end }) => end));
    for (const [i, { request, tokens }] of runs.entries()) {
      expect(ends[i].finish).toBe(leaves(i) ? "abort" : "length");
      const all = expected(request, runner.vocabSize);
      expect(tokens).toEqual(leaves(i) ? all.slice(0, tokens.length) : all);
    }
    expect(idle(engine)).toEqual(IDLE);
  },
);

it("F29: a prompt that another salt has in the cache takes as many steps to its first token as one that nobody has", async () => {
  const { engine, runner } = makeEngine({ maxSeqs: 4, maxBatchedTokens: 8, blockCount: 200 });
  const prompt = Array.from({ length: 60 }, (_, i) => (i * 7) % 32);
  const stepsOf = async (cacheSalt: string | null, ids = prompt) => {
    const from = runner.steps;
    let first = 0;
    const request = makeRequest({ prompt: ids, cacheSalt, maxTokens: 4 });
    const run = collect(engine, request, ({ token }) => {
      if (token !== null && first === 0) first = runner.steps - from;
    });
    await run.end;
    expect(run.tokens).toEqual(expected(request, runner.vocabSize));
    return first;
  };
  const fresh = await stepsOf("a");
  expect(fresh).toBe(8);
  expect(await stepsOf("a")).toBe(1);
  for (const salt of ["b", "c", null]) expect([salt, await stepsOf(salt)]).toEqual([salt, fresh]);
  expect(await stepsOf("b", prompt.toReversed())).toBe(fresh);
});
