import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Grammars } from "../serve/engine/grammar/index.ts";
import { type ConstraintSource, constraintOf } from "../serve/text/constraint.ts";
import { send, startServer, type TestServer } from "./serve_fake.ts";

/** Fields of vLLM that bound what is read or written. */
let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.server.close());

const base = {
  model: "tiny/fake",
  prompt: "once upon a time",
  max_tokens: 20,
  return_token_ids: true,
  ignore_eos: true,
};
const post = (fields: object) =>
  send(`${server.url}/v1/completions`, { json: { ...base, seed: 3, ...fields } });
const first = async (fields: object) => (await post(fields)).body.choices[0];

describe("allowed_token_ids", () => {
  it("are the only tokens written, at any temperature", async () => {
    for (const temperature of [0, 1, 2]) {
      const { token_ids } = await first({ allowed_token_ids: [7, 70, 271], temperature });
      expect(token_ids).toHaveLength(20);
      expect(token_ids.filter((id: number) => ![7, 70, 271].includes(id))).toEqual([]);
    }
    expect(new Set((await first({ allowed_token_ids: [7, 70, 271] })).token_ids).size).toBe(3);
  });

  it("all of them change nothing", async () => {
    const all = Array.from({ length: server.tokenizer.vocabSize }, (_, id) => id);
    expect((await first({ allowed_token_ids: all })).text).toBe((await first({})).text);
  });
});

describe("bad_words", () => {
  it("are not written, and nothing else changes until one would have been", async () => {
    const plain: number[] = (await first({ temperature: 0 })).token_ids;
    const isWord = (id: number) => /^[a-z]+$/.test(server.tokenizer.decode([id]));
    const at = plain.findIndex((id, i) => i > 2 && isWord(id));
    const word = server.tokenizer.decode([plain[at]]);
    const { token_ids } = await first({ temperature: 0, bad_words: [word] });
    expect(token_ids.slice(0, plain.indexOf(plain[at]))).toEqual(plain.slice(0, plain.indexOf(plain[at])));
    expect(token_ids).not.toContain(plain[at]);
  });

  const words = { ab: [1, 2], " ab": [9, 2], c: [3], " c": [8, 3], aba: [1, 2, 1], " aba": [9, 2, 1] };
  const source = (vocabSize = 40): ConstraintSource => ({
    grammars: new Grammars(server.tokenizer, vocabSize),
    vocabSize,
    stopTokenIds: new Set([0]),
    encode: async (text) => words[text as keyof typeof words],
  });

  it("ban the last token after the others, spaced or not, within the answer alone (against vLLM's rule)", async () => {
    const constraint = (await constraintOf({ bad_words: ["ab", "c", "aba"] }, source()))()!;
    // As vLLM has them: the spaced form counts where it has as many tokens and another first one.
    const banned = [[1, 2], [9, 2], [3], [1, 2, 1], [9, 2, 1]];
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(1, 2, 3, 9), { maxLength: 6 }),
        fc.nat(2),
        (history, promptLength) => {
          const past = history.slice(promptLength);
          const mask = constraint.allowed(history, Math.min(promptLength, history.length));
          for (let id = 0; id < 40; id++) {
            const isBanned = banned.some((ids) => {
              const before = ids.slice(0, -1);
              if (ids.at(-1) !== id || before.length > past.length) return false;
              return before.length === 0 || before.join() === past.slice(-before.length).join();
            });
            expect([id, ((mask[id >>> 5] >>> (id & 31)) & 1) === 1]).toEqual([id, !isBanned]);
          }
        },
      ),
    );
  });

  it("are not written after a space either, where they have a token of their own", async () => {
    const tokens: Record<string, number[]> = { there: [5, 6], " there": [7] };
    const own = { ...source(), encode: async (text: string) => tokens[text] };
    const constraint = (await constraintOf({ bad_words: [" there"] }, own))()!;
    const isAllowed = (id: number, history: number[]) =>
      ((constraint.allowed(history, 0)[id >>> 5] >>> (id & 31)) & 1) === 1;
    expect([isAllowed(7, []), isAllowed(6, [5]), isAllowed(6, [])]).toEqual([false, false, true]);
  });

  it("must leave something to write", async () => {
    await expect(constraintOf({ bad_words: ["ab", "c", "aba"], min_tokens: 1 }, source(4))).rejects.toThrow(
      "no token",
    );
    await expect(constraintOf({ bad_words: [" "] }, source())).rejects.toThrow("must not be empty");
  });
});

describe("truncate_prompt_tokens", () => {
  const prompt = "once upon a time there was a little dog";

  it("reads the last tokens only; special tokens before a text stay", async () => {
    const all = await server.tokenizer.encode(prompt);
    expect(all[0]).toBe(server.tokenizer.bosId);
    for (const k of [2, 4, all.length, all.length + 5]) {
      const ids = await first({ prompt: all, truncate_prompt_tokens: k });
      expect(ids.prompt_token_ids).toEqual(all.slice(-k));
      expect(ids.text).toBe((await first({ prompt: all.slice(-k) })).text);
      const { prompt_token_ids } = await first({ prompt, truncate_prompt_tokens: k });
      expect(prompt_token_ids).toEqual([all[0], ...all.slice(1).slice(1 - k)]);
    }
  });

  it("-1 reads what fits beside the answer, and without it nothing is cut", async () => {
    const long = prompt.repeat(20);
    const { status, body } = await post({ prompt: long });
    expect([status, body.error.code]).toEqual([400, "context_length_exceeded"]);
    const { prompt_token_ids, token_ids } = await first({ prompt: long, truncate_prompt_tokens: -1 });
    expect([prompt_token_ids.length, token_ids.length]).toEqual([108, 20]);
    const all = await server.tokenizer.encode(long);
    expect(prompt_token_ids).toEqual([all[0], ...all.slice(-107)]);
  });
});

describe("prompt_logprobs", () => {
  it("are those of an echo, by id and with ranks, beside other log probabilities", async () => {
    const echoed = await first({ echo: true, logprobs: 2, max_tokens: 2 });
    const { prompt_logprobs, logprobs, text } = await first({
      prompt_logprobs: 3,
      logprobs: 1,
      max_tokens: 2,
    });
    const ids = await server.tokenizer.encode(base.prompt);
    expect(prompt_logprobs).toHaveLength(ids.length);
    expect(prompt_logprobs[0]).toBeNull();
    expect(echoed.text).toBe(base.prompt + text);
    ids.slice(1).forEach((id, i) => {
      const entry = prompt_logprobs[i + 1];
      expect(entry[id].logprob).toBe(echoed.logprobs.token_logprobs[i + 1]);
      expect(entry[id].decoded_token).toBe(echoed.logprobs.tokens[i + 1]);
      const ranks = Object.values<{ rank: number; logprob: number }>(entry).sort((a, b) => a.rank - b.rank);
      expect(ranks.slice(0, 3).map(({ rank }) => rank)).toEqual([1, 2, 3]);
      expect(ranks.map(({ logprob }) => logprob)).toEqual(
        ranks.map(({ logprob }) => logprob).sort((a, b) => b - a),
      );
      expect(Object.keys(entry)).toHaveLength(entry[id].rank <= 3 ? 3 : 4);
    });
    expect(logprobs.tokens).toHaveLength(2);
    for (const top of logprobs.top_logprobs) expect(Object.keys(top).length).toBeLessThanOrEqual(2);
  });

  it("with an echo that wants fewer alternatives, each has its own number; without tokens to write too", async () => {
    const choice = await first({ echo: true, logprobs: 1, prompt_logprobs: 4, max_tokens: 0 });
    for (const top of choice.logprobs.top_logprobs.slice(1))
      expect(Object.keys(top).length).toBeLessThanOrEqual(2);
    for (const entry of choice.prompt_logprobs.slice(1))
      expect(Object.keys(entry).length).toBeGreaterThanOrEqual(4);
    expect((await first({})).prompt_logprobs).toBeUndefined();
  });
});

describe("what cannot be", () => {
  it.each<[string, object]>([
    ["allowed_token_ids", { allowed_token_ids: [] }],
    ["allowed_token_ids", { allowed_token_ids: [100_000] }],
    ["allowed_token_ids", { allowed_token_ids: [1.5] }],
    ["allowed_token_ids", { allowed_token_ids: [0], min_tokens: 2, ignore_eos: false }],
    ["bad_words", { bad_words: [""] }],
    ["bad_words", { bad_words: Array.from({ length: 129 }, String) }],
    ["bad_words", { bad_words: ["x"], allowed_token_ids: [5] }],
    ["allowed_token_ids", { allowed_token_ids: [5], guided_choice: ["a"], ignore_eos: false }],
    ["bad_words", { bad_words: ["a"], guided_regex: "a", ignore_eos: false }],
    ["truncate_prompt_tokens", { truncate_prompt_tokens: 0 }],
    ["truncate_prompt_tokens", { truncate_prompt_tokens: -2 }],
    ["truncate_prompt_tokens", { truncate_prompt_tokens: 129 }],
    ["truncate_prompt_tokens", { truncate_prompt_tokens: "all" }],
    ["prompt_logprobs", { prompt_logprobs: -1 }],
    ["prompt_logprobs", { prompt_logprobs: 21 }],
    ["prompt_logprobs", { prompt_logprobs: 1, stream: true }],
  ])("is 400 and names %s: %j", async (param, fields) => {
    const steps = server.runner.steps;
    const { status, body } = await post(fields);
    expect([status, body.error.param?.split(".")[0], server.runner.steps]).toEqual([400, param, steps]);
  });
});
