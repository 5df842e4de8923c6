import { existsSync, readFileSync } from "node:fs";
import type OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { tensor } from "../core/tensor.ts";
import { openDevice } from "../kernels/index.ts";
import { addAdapter, useAdapter } from "../models/adapters.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { pipeline as modelsPipeline } from "../models/pipeline.ts";
import { argmax } from "../models/sampling.ts";
import { ModelRunner } from "../serve/engine/runner.ts";
import { createServer, type Server } from "../serve/index.ts";
import { LIMITS } from "../serve/limits.ts";
import { pipeline } from "../serve/pipeline.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/index.ts";
import { GREEDY, officialClient } from "./serve_fake.ts";
import { kinds } from "./support/decoder_kinds.ts";

/** A real model behind a real socket and the official client: what it answers must not depend on what else it does. */
const dataFolder = new URL("../../shared/data/models/", import.meta.url).pathname;
const hasData = existsSync(`${dataFolder}stories260K-hf`);

beforeAll(async () => {
  await openDevice();
});

/** A server on a free port and a client of it. */
async function start(model: LlamaForCausalLM, tokenizer: Tokenizer, options: { blocks?: number } = {}) {
  const bytesPerBlock =
    16 * model.config.num_key_value_heads * model.config.head_dim * 4 * 2 * model.config.num_hidden_layers;
  const runner = new ModelRunner(model, {
    maxSequences: 32,
    maxModelLen: 128,
    ...(options.blocks ? { cacheBytes: options.blocks * bytesPerBlock } : {}),
  });
  const server = createServer({ runner, tokenizer, modelName: "tiny", maxSeqs: 32, maxBatchedTokens: 128 });
  const url = await server.listen({ port: 0 });
  return { server, client: officialClient(url) };
}

describe("a TinyLLM with random weights", () => {
  let server: Server;
  let client: OpenAI;
  let model: LlamaForCausalLM;
  let tokenizer: Tokenizer;
  const stories = [...storyCorpus({ seed: 5, stories: 40 })];

  beforeAll(async () => {
    tokenizer = new Tokenizer(trainBpe(stories, { vocab_size: 400, special_tokens: ["<|endoftext|>"] }));
    // Large weights: with the usual small ones every answer would be the same few tokens.
    model = new LlamaForCausalLM(
      tinyllmConfig({
        vocab_size: tokenizer.vocabSize,
        num_hidden_layers: 2,
        initializer_range: 0.3,
        num_key_value_heads: 2,
      }),
    ).init(3);
    ({ server, client } = await start(model, tokenizer));
  });
  afterAll(() => server.close(0));

  const prompts = Array.from({ length: 32 }, (_, i) => stories[i].slice(0, 8 + 5 * i));
  const body = (i: number) => ({
    model: "tiny",
    prompt: prompts[i],
    max_tokens: 12 + (i % 9),
    temperature: i % 2 ? 0 : 0.9,
    seed: i,
    logprobs: 1,
  });
  const streamed = async (on: OpenAI, i: number) => {
    let text = "";
    const numbers: number[] = [];
    for await (const chunk of await on.completions.create({ ...body(i), stream: true })) {
      text += chunk.choices[0]?.text ?? "";
      numbers.push(...((chunk.choices[0]?.logprobs?.token_logprobs ?? []) as number[]));
    }
    return { text, numbers };
  };

  it("answers 32 concurrent streams as it answers them one at a time, bit for bit", async () => {
    const alone = [];
    for (let i = 0; i < prompts.length; i++) alone.push(await streamed(client, i));
    const together = await Promise.all(prompts.map((_, i) => streamed(client, i)));
    expect(new Set(alone.map((a) => a.text)).size).toBeGreaterThan(16);
    // Log probabilities are compared as numbers: not one bit may differ.
    expect(together).toEqual(alone);
    expect(server.engine.stats().blocksUsed).toBe(0);
  });

  it("gives the same answers when it must preempt for want of cache blocks", async () => {
    // Enough of them that some must outgrow the blocks together, whenever each arrives.
    const some = Array.from({ length: 16 }, (_, i) => 2 * i + 1);
    const roomy = await Promise.all(some.map((i) => streamed(client, i)));
    const tight = await start(model, tokenizer, { blocks: 10 });
    const squeezed = await Promise.all(some.map((i) => streamed(tight.client, i)));
    expect(squeezed).toEqual(roomy);
    expect(tight.server.engine.stats().preemptions).toBeGreaterThan(0);
    expect(tight.server.engine.stats().blocksUsed).toBe(0);
    await tight.server.close(0);
  });

  it("lets others have their turn between the rows of a step when these take long", async () => {
    const runner = new ModelRunner(model, { maxSequences: 6, maxModelLen: 32 });
    const events: string[] = [];
    /** A sampler's work, as of a large vocabulary. */
    class SlowBias extends Map<number, number> {
      override [Symbol.iterator]() {
        events.push("row");
        for (const end = performance.now() + 15; performance.now() < end; );
        return super[Symbol.iterator]();
      }
    }
    const sampling = { ...GREEDY, logitBias: new SlowBias([[1, 1]]) };
    const rest = {
      history: [1],
      promptLength: 1,
      position: 1,
      banned: null,
      constraint: null,
      topLogprobs: null,
    };
    const items = Array.from({ length: 6 }, (_, i) => ({
      ...{
        id: `${i}`,
        tokens: [1],
        start: 0,
        blockTable: Int32Array.of(2 * i, 2 * i + 1),
        score: null,
        isFed: false,
      },
      rows: [0],
      sample: { params: sampling, ...rest },
    }));
    let done = false;
    const tick = () => {
      events.push("turn");
      if (!done) setImmediate(tick);
    };
    setImmediate(tick);
    await runner.run(items);
    done = true;
    runner.close();
    const rows = events.flatMap((event, i) => (event === "row" ? [i] : []));
    expect(rows.length).toBe(6);
    for (const i of rows.slice(1)) expect(events[i - 1]).toBe("turn");
  });

  it("answers as a forward pass over whole sequences does, without a cache", async () => {
    const ids = await tokenizer.encode(prompts[1]);
    const count = ids.length;
    for (let i = 0; i < 12; i++) {
      const logits = scope(() =>
        noGrad(() => {
          const shape = [1, ids.length];
          const positions = tensor([...ids.keys()], shape, "i32");
          return model.logits(model.hidden(tensor(ids, shape, "i32"), { positions }));
        }),
      );
      const last = (await logits.data()).slice(-model.config.vocab_size);
      dispose(logits);
      ids.push(argmax(last));
    }
    const { choices } = await client.completions.create({ ...body(1), max_tokens: 12, temperature: 0 });
    expect(tokenizer.decode(ids.slice(count))).toBe(choices[0].text);
  });
});

it("answers begin after the prompt, offline and through the server, where its last token is half a character", async () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const shape = {
    hidden_size: 16,
    num_attention_heads: 2,
    num_hidden_layers: 1,
  };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...shape })).init(1);
  const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
  const { server, client } = await start(model, tokenizer);
  const ids = (...tokens: string[]) => tokens.map((token) => tokenizer.tokenToId(token)!);
  const cases: [prompt: string[], answer: string, text: string, whole: string][] = [
    [["▁Once", "<0x0A>"], "a", "aa", "Once\naa"],
    [["▁Once", "<0x0A>"], "<0x0A>", "\n\n", "Once\n\n\n"],
    [["▁Once", "<0xE2>", "<0x82>"], "<0xAC>", "€\uFFFD", "Once€\uFFFD"],
    [["▁Once", "<0xE2>", "<0x82>"], "a", "aa", "Once\uFFFD\uFFFDaa"],
  ];
  for (const [prompt, answer, text, whole] of cases) {
    const asked = { temperature: 0, max_tokens: 2, logit_bias: { [ids(answer)[0]]: 100 } };
    expect(await generator.complete(ids(...prompt), asked)).toBe(text);
    const body = { model: "tiny", prompt: ids(...prompt), ...asked };
    expect((await client.completions.create(body)).choices[0].text).toBe(text);
    expect((await client.completions.create({ ...body, echo: true })).choices[0].text).toBe(whole);
  }
  generator.close();
  await server.close(0);
});

it("many prompts at once are continued as each alone, and a refused one leaves nothing running", async () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const sizes = { hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1, initializer_range: 0.5 };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(1);
  const generator = new TextGenerator(model, tokenizer, { maxSequences: 2 });
  const options = { n: 2, max_tokens: 6, seed: 5, stop: ["a"] };
  const prompts = ["Once", "Once Once", [1, 2, 3], "Once"];
  const together = await generator.generate(prompts, options);
  for (const [index, prompt] of prompts.entries())
    expect([together[index]]).toEqual(await generator.generate([prompt], options));
  expect(together.map((each) => each.length)).toEqual([2, 2, 2, 2]);
  for (const { text, token_ids, finish_reason } of together.flat()) {
    expect(text).not.toContain("a");
    expect(finish_reason === "stop" || token_ids.length === 6).toBe(true);
  }
  await expect(generator.generate([...prompts, [tokenizer.vocabSize]], options)).rejects.toThrow("token ids");

  // The pipeline of transformers.js over the same engine.
  const write = await pipeline("text-generation", { model, tokenizer });
  const [[greedy]] = await generator.generate(["ab"], { max_tokens: 6, temperature: 0 });
  expect(await write("ab", { max_new_tokens: 6 })).toEqual([{ generated_text: `ab${greedy.text}` }]);
  await expect(modelsPipeline("text-generation", { model, tokenizer })).rejects.toThrow(
    'for text of a LlamaForCausalLM import { pipeline } from "kiln/serve"',
  );
  generator.close();
});

it("a model that is trained, or given an adapter, between two answers forgets what it read before", async () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const sizes = { hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 2, initializer_range: 0.5 };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(1);
  const prompt = Array.from({ length: 70 }, (_, i) => 3 + (i % 20));
  const options = { max_tokens: 12, temperature: 0 };
  const fresh = async () => {
    const generator = new TextGenerator(model, tokenizer);
    const text = await generator.complete(prompt, options);
    generator.close();
    return text;
  };
  const generator = new TextGenerator(model, tokenizer);
  const before = await generator.complete(prompt, options);
  model.init(2);
  const trained = await generator.complete(prompt, options);
  expect(trained).toBe(await fresh());
  expect(trained).not.toBe(before);
  const adapter = addAdapter(model, { r: 4, target_modules: ["v_proj"] });
  for (const parameter of adapter.parameters().values())
    parameter.write(Float32Array.from({ length: parameter.size }, (_, i) => Math.sin(i)));
  useAdapter(model, "default");
  const adapted = await generator.complete(prompt, options);
  expect(adapted).toBe(await fresh());
  expect(adapted).not.toBe(trained);
  generator.close();
});

it("samples of scripts and of training have no time limit", async () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const sizes = { hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1 };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(1);
  const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
  // A machine so busy that the server's limit is over before the step is.
  const real = setTimeout;
  const busy = vi.spyOn(globalThis, "setTimeout");
  busy.mockImplementation(((work: () => void, ms = 0, ...args: []) =>
    real(work, ms === LIMITS.stepMs ? 0 : ms, ...args)) as typeof setTimeout);
  const logit_bias = { [tokenizer.tokenToId("a")!]: 100 };
  const text = await generator.complete("Once", { temperature: 0, max_tokens: 4, logit_bias });
  busy.mockRestore();
  expect(text).toBe("aaaa");
  generator.close();
});

describe("stories260K, a real trained model", () => {
  it.skipIf(!hasData)(
    "continues as llama2.c does, offline and through the server (needs ../shared/data)",
    async () => {
      const { model, tokenizer } = await loadModel(`${dataFolder}stories260K-hf`);
      const expected = readFileSync(`${dataFolder}stories260K/expected_greedy_200.txt`, "utf8");
      const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
      expect(await generator.complete("", { temperature: 0, max_tokens: 200 })).toBe(expected.trimEnd());
      generator.close();
      const runner = new ModelRunner(model);
      const server = createServer({ runner, tokenizer, modelName: "stories" });
      const client = officialClient(await server.listen({ port: 0 }));
      const answer = await client.completions.create({
        model: "stories",
        prompt: [1],
        temperature: 0,
        max_tokens: 200,
      });
      expect(answer.choices[0].text.trimEnd()).toBe(expected.trimEnd());
      // The prompt's last token is a byte; it is no part of the answer, and a stop string does not see it.
      const lily = { model: "stories", prompt: "Lily\n", temperature: 0, max_tokens: 6 };
      const plain = (await client.completions.create(lily)).choices[0];
      expect(plain.text).toBe("One day, Lily");
      expect((await client.completions.create({ ...lily, stop: "\n" })).choices[0]).toEqual(plain);
      expect((await client.completions.create({ ...lily, echo: true })).choices[0].text).toBe(
        "Lily\nOne day, Lily",
      );
      const newlines = { ...lily, prompt: "Once", logit_bias: { "13": 100 } };
      const offsets = (await client.completions.create({ ...newlines, logprobs: 0 })).choices[0].logprobs;
      expect(offsets!.text_offset).toEqual([0, 1, 2, 3, 4, 5]);
      const { usage } = await client.completions.create({ ...newlines, stop: "\n" });
      expect(usage!.completion_tokens).toBe(1);
      expect(server.engine.stats().blocksUsed).toBe(0);
      await server.close(0);
    },
  );
});
