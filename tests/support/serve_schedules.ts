import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { dispose, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { tensor } from "../../core/tensor.ts";
import type { AdapterConfig } from "../../models/adapter_config.ts";
import { removeAdapter, useAdapter } from "../../models/adapters.ts";
import { loadAdapter } from "../../models/formats/peft_directory.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { Engine } from "../../serve/engine/engine.ts";
import { ModelRunner } from "../../serve/engine/runner.ts";
import { sampleRow } from "../../serve/engine/sampler.ts";
import type { EngineEvent, Request, Runner } from "../../serve/engine/types.ts";
import { collect, GREEDY, makeRequest } from "../serve_fake.ts";
import { randomBelow } from "./serve_traffic.ts";
import { llamaAdapters, writeAdapter } from "./tiny_adapters.ts";

const vocabulary = 96;
const context = 96;
const blockSizes = [4, 8, 16, 32];

/** A Llama of 35 thousand weights, so large that its answers differ. */
function makeModel(): LlamaForCausalLM {
  return new LlamaForCausalLM(
    tinyllmConfig({
      ...{ vocab_size: vocabulary, hidden_size: 32, intermediate_size: 88, num_hidden_layers: 2 },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: context },
      initializer_range: 0.3,
    }),
  ).init(11);
}

/** Eight adapters of it, which differ in rank, scale and layers. */
const adapters = Object.entries<Partial<AdapterConfig>>({
  ...Object.fromEntries(Object.entries(llamaAdapters).filter(([name]) => name !== "head")),
  one: { r: 1, target_modules: ["v_proj"] },
  feed: { r: 16, target_modules: ["gate_proj", "up_proj", "down_proj"] },
  wide: { r: 24, lora_alpha: 48, target_modules: ["o_proj"] },
  all: { r: 2, target_modules: "all-linear" },
});

/** Requests of every kind, many of which begin alike, to the model and to its adapters. */
function makeRequests(count: number): Request[] {
  const below = randomBelow(3);
  const tokens = (length: number) => Array.from({ length }, () => below(vocabulary));
  const stems = [[], tokens(5), tokens(21), tokens(40)];
  return Array.from({ length: count }, (_, i) => {
    const seed: [number, number] = [below(2 ** 31), i];
    const sampling = [
      GREEDY,
      { ...GREEDY, temperature: 1, seed },
      { ...GREEDY, temperature: 1, topK: 20, topP: 0.9, repetitionPenalty: 1.2, seed, choice: below(3) },
    ][below(3)];
    return makeRequest({
      prompt: [...stems[below(4)], ...tokens(1 + below(12))],
      ...{ sampling, maxTokens: 1 + below(30) },
      topLogprobs: [null, 0, 3][below(3)],
      scorePrompt: below(6) === 0,
      adapter: i % 2 === 0 ? null : adapters[(i >> 1) % adapters.length][0],
    });
  });
}

/** What is compared, bit by bit. */
interface Answer {
  readonly tokens: EngineEvent["token"][];
  readonly scored: EngineEvent["scored"][number][];
}

/**
 * One model and the answers that it gives to requests when each is alone; random schedules of an engine must give the same,
 * to the last bit of the log probabilities.
 */
export class Schedules {
  readonly counts = { answers: 0, adapted: 0, cached: 0, preempted: 0, aborted: 0, steps: 0 };
  readonly #folder = mkdtempSync(join(tmpdir(), "kiln-schedules-"));
  readonly #model = makeModel();
  readonly #requests: readonly Request[];
  readonly #answers: Answer[] = [];
  readonly #runners: readonly ModelRunner[];
  #engine: Engine | null = null;

  constructor(requests: number, sizes: readonly number[] = blockSizes) {
    this.#requests = makeRequests(requests);
    this.#runners = sizes.map((blockSize) => new ModelRunner(this.#model, { blockSize, maxSequences: 16 }));
  }

  close(): void {
    rmSync(this.#folder, { recursive: true });
    for (const runner of this.#runners) runner.close();
    dispose(this.#model.parameters());
  }

  /** Answers each request alone. */
  async prepare(): Promise<void> {
    for (const [name, config] of adapters) {
      const path = await writeAdapter(this.#model, config, this.#folder, name);
      for (const runner of this.#runners) await runner.adapters.add(name, path);
    }
    for (const request of this.#requests) {
      const engine = new Engine({ runner: this.#runners[0] });
      const { tokens, scored, end } = collect(engine, request);
      await end;
      this.#answers.push({ tokens, scored });
    }
    expect(new Set(this.#answers.map(({ tokens }) => tokens.map((token) => token!.id).join())).size).toBe(
      this.#requests.length,
    );
  }

  /** Compares with forward passes over whole sequences, without a cache: the same tokens, log probabilities to 1e-4. */
  async checkWhole(): Promise<void> {
    for (const [name] of adapters) await loadAdapter(this.#model, join(this.#folder, name), name);
    for (const [i, { prompt, sampling, topLogprobs, adapter }] of this.#requests.entries()) {
      useAdapter(this.#model, adapter);
      const { tokens, scored } = this.#answers[i];
      const history = [...prompt, ...tokens.map((token) => token!.id)];
      const logits = scope(() =>
        noGrad(() => {
          const positions = tensor([...history.keys()], [1, history.length], "i32");
          return this.#model.logits(
            this.#model.hidden(tensor(history, [1, history.length], "i32"), { positions }),
          );
        }),
      );
      const values = (await logits.data()) as Float32Array;
      dispose(logits);
      const row = (position: number) => values.subarray(position * vocabulary, (position + 1) * vocabulary);
      tokens.forEach((token, t) => {
        const position = prompt.length + t;
        const spec = {
          ...{ params: sampling, history: history.slice(0, position), promptLength: prompt.length, position },
          ...{ banned: null, constraint: null, topLogprobs },
        };
        const want = sampleRow(row(position - 1), spec);
        expect(token!.id).toBe(want.id);
        if (want.logprob !== null) expect(Math.abs(token!.logprob! - want.logprob)).toBeLessThan(1e-4);
      });
      expect(scored.map(({ id }) => id)).toEqual(this.#requests[i].scorePrompt ? prompt.slice(1) : []);
    }
    for (const [name] of adapters) removeAdapter(this.#model, name);
  }

  /**
   * A random schedule: companions, budget, places, block size, room, order of arrival, aborts, a cold cache or that of the
   * schedule before it.
   */
  async run(seed: number): Promise<void> {
    const below = randomBelow(seed);
    const isWarm = this.#engine !== null && below(3) > 0;
    if (!isWarm) {
      const runner = this.#runners[below(this.#runners.length)];
      const maxSeqs = 1 + below(12);
      const least = Math.ceil(context / runner.blockSize) + 1;
      this.#engine = new Engine({
        runner: withBlocks(runner, least + below(2) * below(4 * least)),
        ...{ maxSeqs, maxBatchedTokens: maxSeqs + below(below(2) === 0 ? 8 : 100) },
      });
    }
    const engine = this.#engine!;
    const before = engine.stats();
    const runs = [];
    for (let i = below(12); i >= 0; i--) {
      const pick = below(this.#requests.length);
      const client = ["a", "b"][below(2)];
      const request = { ...this.#requests[pick], id: `${seed}/${i}`, client };
      const run = collect(engine, request);
      const aborts = below(8) === 0;
      runs.push({ ...run, pick, aborts });
      for (let turns = below(2) * below(12); turns > 0; turns--) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (aborts) engine.abort(request.id);
    }
    for (const { pick, tokens, scored, end, aborts } of runs) {
      const { finish, cachedTokens } = await end;
      const want = this.#answers[pick];
      if (finish === "abort" && aborts) {
        this.counts.aborted++;
        expect(tokens, `seed ${seed}`).toEqual(want.tokens.slice(0, tokens.length));
        continue;
      }
      expect({ tokens, scored, finish }, `seed ${seed}`).toEqual({ ...want, finish: "length" });
      this.counts.answers++;
      if (this.#requests[pick].adapter !== null) this.counts.adapted++;
      if (cachedTokens > 0) this.counts.cached++;
    }
    const { preemptions, steps, blocksUsed } = engine.stats();
    this.counts.preempted += preemptions - before.preemptions;
    this.counts.steps += steps - before.steps;
    expect(blocksUsed).toBe(0);
  }
}

/**
 * Trials in which one request, the needle, stands at a random place among long fillers: in each it must give the tokens and,
 * bit by bit, the log probabilities that it gives alone. Returns the places it had, and the most rows of a step beside it.
 */
export async function findNeedles(
  trials: number,
  seed: number,
): Promise<{ places: number; mostRows: number }> {
  const below = randomBelow(seed);
  const tokens = (length: number) => Array.from({ length }, () => below(vocabulary));
  const model = makeModel();
  const runner = new ModelRunner(model, { blockSize: 16, maxSequences: 32 });
  const needle = makeRequest({ prompt: tokens(9), maxTokens: 8, topLogprobs: 2, scorePrompt: true });
  const places = new Set<number>();
  let mostRows = 0;
  /** The answer to the needle among `fillers`, at `place` in the order of arrival. */
  const answer = async (place: number, fillers: readonly Request[], maxBatchedTokens: number) => {
    const counted: Runner = {
      ...withBlocks(runner, runner.blockCount),
      run: (items) => {
        if (items.some(({ id }) => id === needle.id))
          mostRows = Math.max(
            mostRows,
            items.reduce((sum, item) => sum + item.tokens.length, 0),
          );
        return runner.run(items);
      },
    };
    const engine = new Engine({ runner: counted, maxSeqs: 32, maxBatchedTokens });
    const runs = fillers.toSpliced(place, 0, needle).map((request) => collect(engine, request));
    await Promise.all(runs.map(({ end }) => end));
    const { tokens: written, scored } = runs[place];
    return { written, scored };
  };
  const alone = await answer(0, [], 128);
  for (let trial = 0; trial < trials; trial++) {
    const fillers = Array.from({ length: 1 + below(24) }, (_, i) =>
      makeRequest({ id: `${trial}/${i}`, prompt: tokens(30 + below(50)), maxTokens: 1 + below(12) }),
    );
    const place = below(fillers.length + 1);
    expect(await answer(place, fillers, 64 + below(400)), `seed ${seed}, trial ${trial}`).toEqual(alone);
    places.add(place);
  }
  runner.close();
  dispose(model.parameters());
  return { places: places.size, mostRows };
}

/** The runner with fewer blocks than it has. */
function withBlocks(runner: Runner, blocks: number): Runner {
  const { vocabSize, maxModelLen, blockSize } = runner;
  const blockCount = Math.min(blocks, runner.blockCount);
  const feeds = runner.feeds && { feeds: runner.feeds.bind(runner) };
  return { vocabSize, maxModelLen, blockSize, blockCount, ...feeds, run: (items) => runner.run(items) };
}
