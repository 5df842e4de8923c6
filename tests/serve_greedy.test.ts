import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { scope } from "../core/scope.ts";
import { tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { greedyTokens, openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { Engine } from "../serve/engine/engine.ts";
import { ModelRunner } from "../serve/engine/runner.ts";
import { sampleRow } from "../serve/engine/sampler.ts";
import type { Request } from "../serve/engine/types.ts";
import { collect, GREEDY, makeRequest } from "./serve_fake.ts";

/** Tokens that the device chooses: they must be those that the host would choose of the same logits. */
const VOCAB = 96;
const MAX_SEQS = 8;
let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = (await openDevice()) as WebGpuDevice;
});
afterEach(() => vi.restoreAllMocks());

/** What the host says of a row: the id, or -1 for an error. */
function hostChoice(logits: Float32Array): number {
  const rest = {
    history: [1],
    promptLength: 1,
    position: 1,
    banned: null,
    constraint: null,
    topLogprobs: null,
  };
  try {
    return sampleRow(logits, { params: GREEDY, ...rest }).id;
  } catch {
    return -1;
  }
}

describe("greedy_tokens", () => {
  const special = [0, 0x80000000, 1, 0x80000001, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0xff800001];
  const finite = fc.nat(0x7f7fffff).map((bits) => (bits % 2 ? bits : (bits | 0x80000000) >>> 0));
  const bits = fc.oneof({ weight: 9, arbitrary: finite }, fc.constantFrom(...special));
  const small = fc.constantFrom(0, 0x80000000, 1, 0x80000001, 0x3f800000);

  it.for(["subgroup", "thread", "workgroup"])(
    "chooses by the bits what the host chooses: ties, zeros, subnormals, NaN (%s)",
    async (variant, { skip }) => {
      if (variant === "subgroup" && gpu.profile.subgroupSize === 0) skip("no subgroups of one size");
      if (variant === "thread" && gpu.profile.class === "gpu") skip("no GPU is given a row a thread");
      gpu.forcedVariant.set("greedy_tokens", variant);
      const anyRows = fc
        .tuple(fc.integer({ min: 1, max: 5 }), fc.constantFrom(1, 7, 1028, 1101))
        .chain(([count, width]) => {
          const rowOf = (of: fc.Arbitrary<number>) => fc.array(of, { minLength: width, maxLength: width });
          return fc.array(fc.oneof(rowOf(finite), rowOf(small), rowOf(bits)), {
            minLength: count,
            maxLength: count,
          });
        });
      try {
        await fc.assert(
          fc.asyncProperty(anyRows, async (rows) => {
            const logits = rows.map((row) => new Float32Array(Uint32Array.from(row).buffer));
            const flat = new Float32Array(Uint32Array.from(rows.flat()).buffer);
            const ids = scope(() => greedyTokens(tensor(flat, [rows.length, rows[0].length])));
            expect([...(await ids.data())]).toEqual(logits.map(hostChoice));
          }),
          { numRuns: 30 },
        );
      } finally {
        gpu.forcedVariant.delete("greedy_tokens");
      }
    },
  );
});

describe("a step whose tokens the device chooses", () => {
  /** Large weights: with the usual small ones every answer would be the same few tokens. */
  function makeModel() {
    return new LlamaForCausalLM(
      tinyllmConfig({
        vocab_size: VOCAB,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 8,
        initializer_range: 0.5,
        tie_word_embeddings: false,
      }),
    ).init(7);
  }

  /** Answers all requests together, counting what comes back from the device. */
  async function answer(requests: readonly Partial<Request>[], model = makeModel(), feeds = true) {
    const runner = new ModelRunner(model, { maxSequences: MAX_SEQS, maxModelLen: 32 });
    if (!feeds) vi.spyOn(runner, "feeds").mockReturnValue(false);
    let fed = 0;
    const run = runner.run.bind(runner);
    runner.run = (items) => {
      fed += items.filter(({ isFed }) => isFed).length;
      return run(items);
    };
    const errors: unknown[] = [];
    const engine = new Engine({
      runner,
      maxSeqs: MAX_SEQS,
      maxBatchedTokens: 64,
      onError: (error) => errors.push((error as Error).message),
    });
    const read = vi.spyOn(gpu, "read").mockClear();
    const runs = requests.map((request) => collect(engine, makeRequest(request)));
    const ends = await Promise.all(runs.map(({ end }) => end));
    const values = read.mock.calls.map(([, , length]) => length);
    runner.close();
    return {
      ids: runs.map(({ tokens }) => tokens.map(({ id }) => id)),
      tokens: runs.map(({ tokens }) => tokens),
      finish: ends.map(({ finish }) => finish),
      errors,
      steps: engine.stats().steps,
      fed,
      values,
    };
  }
  const prompts = Array.from({ length: MAX_SEQS }, (_, i) => [i * 3, 5, i]);
  const plain = prompts.map((prompt): Partial<Request> => ({ prompt, maxTokens: 12, topLogprobs: null }));
  const scored = plain.map((request): Partial<Request> => ({ ...request, topLogprobs: 2 }));

  it("reads ids back instead of logits, and gives the tokens that the host would have chosen", async () => {
    const few = await answer(plain);
    const many = await answer(scored);
    expect(few.values).toEqual(new Array(few.steps).fill(MAX_SEQS));
    expect(many.values).toEqual(new Array(many.steps).fill(MAX_SEQS * VOCAB));
    expect(few.ids).toEqual(many.ids);
    expect(new Set(few.ids.flat()).size).toBeGreaterThan(8);
    expect(few.tokens.flat().every(({ logprob, top }) => logprob === null && top.length === 0)).toBe(true);
  });

  it("changes to logits and back with the company, at the cost of reading them alone", async () => {
    const alone = await answer(plain);
    // A companion of four tokens needs the logits as long as it runs.
    const penalised = { prompt: [9], maxTokens: 4, sampling: { ...GREEDY, presencePenalty: 1 } };
    const mixed = await answer([...plain.slice(1), { ...penalised, topLogprobs: null }]);
    expect(mixed.ids.slice(0, -1)).toEqual(alone.ids.slice(1));
    expect(new Set(mixed.values.slice(0, 4))).toEqual(new Set([MAX_SEQS * VOCAB]));
    expect(new Set(mixed.values.slice(4))).toEqual(new Set([MAX_SEQS]));
  });

  it.each([
    ["a bias", { sampling: { ...GREEDY, logitBias: new Map([[3, 1]]) } }],
    ["a penalty", { sampling: { ...GREEDY, presencePenalty: 1 } }],
    ["banned tokens", { minTokens: 12, stopTokenIds: new Set([3]) }],
    ["scores of the prompt", { scorePrompt: true, maxTokens: 1 }],
  ] as [string, Partial<Request>][])("is none with %s", async (_name, options) => {
    const { values } = await answer([{ ...plain[0], ...options }]);
    for (const length of values) expect(length % VOCAB).toBe(0);
  });

  it("forbidding no token is no ban", async () => {
    const { values } = await answer([{ ...plain[0], minTokens: 12 }]);
    expect(new Set(values)).toEqual(new Set([1]));
  });

  it("F16: ends the request whose logits are not finite, with the host's error, and no other", async () => {
    const poisoned = () => {
      const model = makeModel();
      const embedding = model.model.embedTokens.weight;
      const weights = Float32Array.from({ length: embedding.size }, (_, i) => Math.sin(i));
      // Token 5 is in every prompt but the first.
      weights.fill(Number.NaN, 5 * 16, 6 * 16);
      embedding.write(weights);
      return model;
    };
    const clean = (requests: Partial<Request>[]) => [
      { ...requests[0], prompt: [1, 2], maxTokens: 1 },
      ...requests.slice(1),
    ];
    const few = await answer(clean(plain), poisoned());
    const many = await answer(clean(scored), poisoned());
    expect(few.values[0]).toBe(MAX_SEQS);
    expect(many.values[0]).toBe(MAX_SEQS * VOCAB);
    expect(few.finish).toEqual(["length", ...new Array(MAX_SEQS - 1).fill("error")]);
    expect(few.errors).toEqual(new Array(MAX_SEQS - 1).fill("the model returned logits that are not finite"));
    expect([many.finish, many.errors, many.ids]).toEqual([few.finish, few.errors, few.ids]);
  });

  const drawn = plain.map((request, i): Partial<Request> => {
    const some = [{}, { topK: 5 }, { topP: 0.8 }, { minP: 0.05, topP: 0.95 }, { temperature: 0 }][i % 5];
    const params = { ...GREEDY, temperature: 1.2, seed: [i, 5] as const, choice: i, ...some };
    // Of different lengths, so that sequences leave while a step is in flight.
    return { ...request, maxTokens: 5 + i, sampling: params };
  });

  it("draws at any temperature on the device what the host would have drawn", async () => {
    const few = await answer(drawn);
    const many = await answer(drawn.map((request) => ({ ...request, topLogprobs: 0 })));
    expect(few.values.every((length) => length <= MAX_SEQS)).toBe(true);
    expect(many.values.every((length) => length % VOCAB === 0)).toBe(true);
    expect(few.ids).toEqual(many.ids);
    expect(new Set(few.ids.flat()).size).toBeGreaterThan(20);
  });

  it("is given while the step before it runs, and answers as if it had waited", async () => {
    for (const requests of [plain, drawn]) {
      // Stop tokens are seen a step late: what runs on is dropped.
      const ids = (await answer(requests, makeModel(), false)).ids;
      const stopped = requests.map((request, i) => ({ ...request, stopTokenIds: new Set([ids[i][3]]) }));
      for (const each of [requests, stopped]) {
        const [fed, waited] = [await answer(each), await answer(each, makeModel(), false)];
        expect([fed.fed > 0, waited.fed]).toEqual([true, 0]);
        expect([fed.ids, fed.finish]).toEqual([waited.ids, waited.finish]);
      }
    }
  });

  it("feeds a step that needs the logits for others", async () => {
    const late = { prompt: [9, 1], maxTokens: 4, topLogprobs: 2 };
    const alone = await answer(plain.slice(1));
    const runner = new ModelRunner(makeModel(), { maxSequences: MAX_SEQS, maxModelLen: 32 });
    const engine = new Engine({ runner, maxSeqs: MAX_SEQS, maxBatchedTokens: 64 });
    const mixedSteps: boolean[] = [];
    const run = runner.run.bind(runner);
    runner.run = (items) => {
      mixedSteps.push(items.some(({ isFed }) => isFed) && items.some((item) => !runner.feeds(item)));
      return run(items);
    };
    let joined = false;
    const ends: Promise<unknown>[] = [];
    const runs = plain.slice(1).map((request) =>
      collect(engine, makeRequest(request), () => {
        if (joined) return;
        joined = true;
        ends.push(collect(engine, makeRequest(late)).end);
      }),
    );
    await Promise.all(runs.map(({ end }) => end));
    await Promise.all(ends);
    runner.close();
    expect(mixedSteps).toContain(true);
    expect(runs.map(({ tokens }) => tokens.map(({ id }) => id))).toEqual(alone.ids);
  });
});
