import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { applyTopK, softmax, uniform } from "../models/sampling.ts";
import { probabilities, sampleRow, scoreRow } from "../serve/engine/sampler.ts";
import type { SampleSpec, Sampling } from "../serve/engine/types.ts";
import { resolveSampling } from "../serve/text/sampling.ts";
import { GREEDY } from "./serve_fake.ts";

interface Golden {
  logits: number[][];
  input_ids: number[][];
  cases: { name: string; attrs: Record<string, number>; probs: number[][] }[];
}
const golden: Golden = JSON.parse(
  readFileSync(new URL("fixtures/golden/sampling.json", import.meta.url), "utf8"),
);
const SAMPLED: Sampling = { ...GREEDY, temperature: 1 };

function spec(params: Partial<Sampling>, history: number[] = [], promptLength = history.length): SampleSpec {
  return {
    params: { ...SAMPLED, ...params },
    history,
    promptLength,
    position: history.length,
    banned: null,
    constraint: null,
    topLogprobs: 0,
  };
}

const row = (...logits: number[]) => Float32Array.from(logits);

describe("processors against transformers", () => {
  it.each(golden.cases)("$name", ({ attrs, probs }) => {
    const params = resolveSampling(attrs, golden.logits[0].length, () => [0, 0]);
    golden.logits.forEach((logits, i) => {
      const got = probabilities(Float32Array.from(logits), spec(params, golden.input_ids[i]));
      got.forEach((p, id) => {
        expect(Math.abs(p - probs[i][id])).toBeLessThan(1e-5);
        expect(p === 0).toBe(probs[i][id] === 0);
      });
    });
  });
});

describe("sampler", () => {
  it("a greedy token is the highest of the adjusted row, whether or not anything adjusts it", () => {
    const ids = fc.nat(7);
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(-0, 0, 1e-42, -1e-42, 1, 1, 2, -3, -Infinity), {
          minLength: 7,
          maxLength: 7,
        }),
        fc.dictionary(ids.map(String), fc.constantFrom(0, 1, -100), { maxKeys: 2 }),
        fc.option(fc.uniqueArray(ids, { maxLength: 2 })),
        fc.constantFrom(1, 1.3),
        (values, bias, banned, repetitionPenalty) => {
          const logits = row(...values, 0.5);
          const logitBias = new Map(Object.entries(bias).map(([id, value]) => [Number(id), value]));
          const asked = {
            ...spec({ temperature: 0, logitBias, repetitionPenalty }, [1, 4]),
            banned: banned && new Set(banned),
          };
          // One-hot, found in the whole row of float64.
          const id = probabilities(logits, asked).indexOf(1);
          expect(sampleRow(logits, { ...asked, topLogprobs: null })).toEqual({ id, logprob: null, top: [] });
          expect(sampleRow(logits, { ...asked, topLogprobs: 3 })).toEqual(scoreRow(logits, id, 3));
        },
      ),
    );
  });

  it("draws the same whether or not log probabilities are asked for", () => {
    const logits = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    for (let i = 0; i < 50; i++) {
      const asked = spec({ seed: [i, 0], topP: 0.9 });
      const { id } = sampleRow(logits, { ...asked, topLogprobs: null });
      expect(sampleRow(logits, asked)).toEqual(scoreRow(logits, id, 0));
    }
  });

  it("W29: takes the lowest id among equals when greedy, and always with top_k 1 of distinct logits", () => {
    expect(sampleRow(row(1, 3, 3, 2), spec({ temperature: 0 })).id).toBe(1);
    for (let i = 0; i < 50; i++)
      expect(sampleRow(row(1, 2, 4, 3), spec({ topK: 1, seed: [i, 0] })).id).toBe(2);
  });

  it("keeps for top_k what a sorted row would, of any values, ties and removed ones among them", () => {
    const value = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.float({ noNaN: true, min: -50, max: 50 }));
    const rows = fc.array(fc.oneof(value, fc.constant(-Infinity)), { minLength: 2, maxLength: 60 });
    fc.assert(
      fc.property(rows, fc.nat(), (values, n) => {
        const k = 1 + (n % (values.length - 1));
        const cut = Float64Array.from(values);
        applyTopK(cut, k);
        const threshold = Float64Array.from(values).sort()[values.length - k];
        expect([...cut]).toEqual(values.map((v) => (v < threshold ? -Infinity : v)));
      }),
    );
  });

  it("draws the first id at which the summed probabilities exceed the number of (seed, choice, position)", () => {
    for (let i = 0; i < 200; i++) {
      const logits = Float32Array.from({ length: 40 }, (_, j) => 4 * Math.sin(i * 40 + j * 1.7));
      const drawn = spec({ topK: i % 30, seed: [i, 3] }, [1, 2]);
      const number = uniform([i, 3], 0, 2);
      let sum = 0;
      const sums = [...probabilities(logits, drawn)].map((p) => {
        sum += p;
        return sum;
      });
      const expected = sums.findIndex((reached) => reached > number);
      expect(sampleRow(logits, drawn).id).toBe(expected);
    }
  });

  it("keeps one token under the smallest top_p and the lower of two equal ones", () => {
    expect([...probabilities(row(0, 5, 5, 1), spec({ topP: 1e-9 }))]).toEqual([0, 1, 0, 0]);
  });

  it("top_p keeps the smallest set that reaches p", () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 1, maxLength: 40 }),
        fc.double({ min: 0.01, max: 0.99, noNaN: true }),
        (values, p) => {
          const logits = Float32Array.from(values);
          const before = softmax(logits);
          const kept = [...probabilities(logits, spec({ topP: p }))].flatMap((q, id) =>
            q > 0 ? [before[id]] : [],
          );
          const mass = kept.reduce((a, b) => a + b, 0);
          expect(mass).toBeGreaterThanOrEqual(p - 1e-9);
          expect(mass - Math.min(...kept)).toBeLessThan(p + 1e-9);
        },
      ),
    );
  });

  it("W30: counts frequency and presence over generated tokens, repetition over all", () => {
    const logits = row(2, 2, 2, -2);
    const at = (params: Partial<Sampling>) =>
      [...probabilities(logits, spec(params, [0, 3, 1, 1], 2))].map((p) => Math.log(p));
    const relative = (values: number[]) => values.map((value) => Math.round((value - values[2]) * 1e5) / 1e5);
    expect(relative(at({ frequencyPenalty: 0.5 }))).toEqual([0, -1, 0, -4]);
    expect(relative(at({ presencePenalty: 0.5 }))).toEqual([0, -0.5, 0, -4]);
    expect(relative(at({ repetitionPenalty: 2 }))).toEqual([-1, -1, 0, -6]);
  });

  it("bias forbids and forces, banned tokens never come", () => {
    const logits = row(1, 2, 3, 4);
    expect(sampleRow(logits, spec({ temperature: 0, logitBias: new Map([[0, 100]]) })).id).toBe(0);
    expect(sampleRow(logits, spec({ temperature: 0, logitBias: new Map([[3, -100]]) })).id).toBe(2);
    expect(sampleRow(logits, { ...spec({ temperature: 0 }), banned: new Set([3, 2]) }).id).toBe(1);
  });

  it("draws from Philox 4x32-10 (known answer of the Random123 suite for key 0, counter 0)", () => {
    expect(uniform([0, 0], 0, 0)).toBe((0x6627e8d5 >>> 8) / 2 ** 24);
  });

  it("draws by (seed, choice, position) only", () => {
    const logits = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    const draw = (seed: [number, number], choice: number, position: number) =>
      sampleRow(logits, { ...spec({ seed, choice }), position }).id;
    const line = (seed: [number, number], choice: number) =>
      Array.from({ length: 30 }, (_, position) => draw(seed, choice, position)).join();
    expect(line([7, 1], 0)).toBe(line([7, 1], 0));
    expect(new Set([line([7, 1], 0), line([7, 1], 1), line([8, 1], 0), line([7, 2], 0)]).size).toBe(4);
  });

  it("draws each token as often as its probability says (chi-squared)", () => {
    const logits = row(0, 1, 2, -1, 0.5, 1.5);
    const params = { temperature: 0.8, topK: 5 };
    const probs = probabilities(logits, spec(params));
    const counts = new Array<number>(6).fill(0);
    const draws = 20_000;
    for (let i = 0; i < draws; i++)
      counts[sampleRow(logits, { ...spec({ ...params, seed: [99, 0] }), position: i }).id]++;
    let chi = 0;
    probs.forEach((p, id) => {
      if (p === 0) expect(counts[id]).toBe(0);
      else chi += (counts[id] - draws * p) ** 2 / (draws * p);
    });
    // 4 degrees of freedom: 23.5 is the point of p = 1e-4.
    expect(chi).toBeLessThan(23.5);
  });

  it("reports log probabilities of the raw model, best first", () => {
    const logits = row(1, 3, 2, 3);
    const { id, logprob, top } = sampleRow(logits, {
      ...spec({ temperature: 0, logitBias: new Map([[0, 50]]) }),
      topLogprobs: 3,
    });
    const raw = softmax(logits);
    expect(id).toBe(0);
    expect(logprob).toBeCloseTo(Math.log(raw[0]), 10);
    expect(top.map(([other]) => other)).toEqual([1, 3, 2]);
    for (const [other, value] of top) expect(value).toBeCloseTo(Math.log(raw[other]), 10);
  });

  it("refuses a row that is no distribution, whatever is asked of it", () => {
    for (const bad of [
      row(Number.NaN, 1),
      row(1, Number.NaN, 2),
      row(1, Infinity),
      row(-Infinity, -Infinity),
    ]) {
      for (const topLogprobs of [null, 0]) {
        for (const params of [
          { temperature: 0 },
          { temperature: 1 },
          { temperature: 0, repetitionPenalty: 2 },
        ])
          expect(() => sampleRow(bad, { ...spec(params, [0]), topLogprobs })).toThrow("not finite");
      }
      expect(() => scoreRow(bad, 0, 0)).toThrow("not finite");
    }
  });
});

describe("parameters", () => {
  const resolve = (raw: Parameters<typeof resolveSampling>[0]) => resolveSampling(raw, 100, () => [1, 2]);

  it("null and absent are the defaults", () => {
    const { logitBias, ...rest } = resolve({ temperature: null, top_p: null, logit_bias: null, seed: null });
    expect(logitBias.size).toBe(0);
    expect(rest).toEqual(
      expect.objectContaining({ temperature: 1, topK: 0, topP: 1, minP: 0, seed: [1, 2] }),
    );
  });

  it("W29: normalises: tiny temperature is greedy, top_k out of play is off", () => {
    expect(resolve({ temperature: 1e-6 }).temperature).toBe(0);
    expect([-1, 0, 100, 1000, 7].map((top_k) => resolve({ top_k }).topK)).toEqual([0, 0, 0, 0, 7]);
  });

  it.each([
    [{ temperature: -0.1 }, "temperature"],
    [{ temperature: 2.1 }, "temperature"],
    [{ temperature: Number.NaN }, "temperature"],
    [{ top_p: 0 }, "top_p"],
    [{ top_p: 1.1 }, "top_p"],
    [{ top_k: -2 }, "top_k"],
    [{ top_k: 1.5 }, "top_k"],
    [{ min_p: 2 }, "min_p"],
    [{ repetition_penalty: 0 }, "repetition_penalty"],
    [{ frequency_penalty: 3 }, "frequency_penalty"],
    [{ presence_penalty: -3 }, "presence_penalty"],
    [{ logit_bias: { "100": 1 } }, "logit_bias.100"],
    [{ logit_bias: { hello: 1 } }, "logit_bias.hello"],
    [{ logit_bias: { "5": 101 } }, "logit_bias.5"],
    [{ seed: 1.5 }, "seed"],
  ])("refuses %j", (raw, param) => {
    expect(() => resolve(raw)).toThrow(expect.objectContaining({ code: "invalid_request", param }));
  });

  it("takes 64-bit seeds", () => {
    expect(resolve({ seed: 2 ** 32 + 5 }).seed).toEqual([5, 1]);
    expect(resolve({ seed: -1 }).seed).toEqual([0xffffffff, 0xffffffff]);
    expect(resolve({ seed: 2n ** 53n + 1n }).seed).toEqual([1, 2 ** 21]);
    expect(resolve({ seed: -(2n ** 63n) }).seed).toEqual([0, 2 ** 31]);
    // A number past 2^53 may stand for several integers.
    for (const seed of [2 ** 53, -(2 ** 60), 2n ** 63n, -(2n ** 63n) - 1n])
      expect(() => resolve({ seed })).toThrow(
        expect.objectContaining({ code: "invalid_request", param: "seed" }),
      );
  });
});
