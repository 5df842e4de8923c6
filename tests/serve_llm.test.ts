import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { fromPretrained } from "../models/formats/hf_directory.ts";
import { loadAdapter } from "../models/formats/peft_directory.ts";
import { removeAdapter, useAdapter } from "../models/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { pipeline } from "../models/pipeline.ts";
import { ModelRunner } from "../serve/engine/runner.ts";
import { createServer, LLM, TextGenerator } from "../serve/index.ts";
import { ChatTemplate, Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { send } from "./serve_fake.ts";
import { writeAdapter } from "./support/tiny_adapters.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

/** A real model of random weights: what it writes must be what the server and TextGenerator write. */
const folder = mkdtempSync(join(tmpdir(), "kiln-llm-"));
const tokenizer = withChatTemplate(
  new Tokenizer(
    trainBpe(["Hello, my name is. The future of AI is here."], {
      vocab_size: 290,
      special_tokens: ["<|endoftext|>"],
    }),
  ),
);
let model: LlamaForCausalLM;
let llm: LLM;

beforeAll(async () => {
  await openDevice();
  model = new LlamaForCausalLM(
    tinyllmConfig({
      vocab_size: tokenizer.vocabSize,
      num_hidden_layers: 2,
      initializer_range: 0.3,
      num_key_value_heads: 2,
      max_position_embeddings: 64,
    }),
  ).init(3);
  llm = new LLM({ model, tokenizer });
});
afterAll(async () => {
  await llm.close();
  rmSync(folder, { recursive: true });
});

const prompts = ["Hello, my name is", "The capital of France is", "The future of AI is"];
const answers = async (on: LLM, ...given: Parameters<LLM["generate"]>) =>
  (await on.generate(...given)).map(({ outputs }) => outputs.map(({ text }) => text));

describe("LLM.generate with an adapter", () => {
  const path = join(folder, "poems");
  const params = { max_tokens: 12, temperature: 0.8, seed: 7 };
  let own: LLM;
  beforeAll(async () => {
    await writeAdapter(model, { r: 4, lora_alpha: 12 }, folder, "poems");
    own = new LLM({ model, tokenizer }, { maxAdapters: 1, maxRank: 8 });
  });
  afterAll(() => own.close());

  it("writes what the model does with it attached, beside what it does without, and in a chat", async () => {
    const lora = { name: "poems", path };
    const base = await answers(own, prompts, params);
    await loadAdapter(model, path);
    useAdapter(model, "default");
    const generator = new TextGenerator(model, tokenizer);
    const adapted = (await generator.generate(prompts, params)).map(([{ text }]) => [text]);
    generator.close();
    useAdapter(model, null);
    removeAdapter(model, "default");
    expect(adapted).not.toEqual(base);
    const given = [
      answers(own, prompts, params, { lora }),
      answers(own, prompts, params),
      answers(own, prompts, params, { lora }),
    ];
    expect(await Promise.all(given)).toEqual([adapted, base, adapted]);
    const chat = [{ role: "user" as const, content: "Hello" }];
    const [[plain], [other]] = [await own.chat(chat, params), await own.chat(chat, params, { lora })];
    expect(other.prompt_token_ids).toEqual(plain.prompt_token_ids);
    expect(other.outputs[0].token_ids).not.toEqual(plain.outputs[0].token_ids);
  });

  it.each([
    [
      { name: "poems", path: "elsewhere" },
      /the adapter poems is .*poems already: give elsewhere another name/,
    ],
    [{ name: "none", path: "/nowhere/at/all" }, /nowhere/],
    [{ name: "", path }, /an adapter is \{ name, path \}, two texts/],
    [{ lora_name: "x" }, /a LoRA request: there is no option lora_name/],
    [{ name: "second", path }, /adapters/],
  ])("refuses %j, and goes on", async (lora, message) => {
    await answers(own, prompts[0], params, { lora: { name: "poems", path } });
    for (let again = 0; again < 2; again++)
      await expect(answers(own, prompts[0], params, { lora } as never)).rejects.toThrow(message);
    await expect(answers(own, prompts[0], params, { adapter: lora } as never)).rejects.toThrow(
      "no option adapter",
    );
    expect(await answers(own, prompts[0], params)).toHaveLength(1);
  });
});

describe("LLM.generate", () => {
  it("gives vLLM's form, with the tokens and texts that TextGenerator writes", async () => {
    const generator = new TextGenerator(model, tokenizer);
    const options = { max_tokens: 12, temperature: 0.8, top_p: 0.95, seed: 7 };
    const expected = await generator.generate(prompts, { ...options, n: 2 });
    generator.close();
    const outputs = await llm.generate(prompts, { ...options, n: 2 });
    for (const [i, output] of outputs.entries()) {
      expect(output).toMatchObject({
        request_id: expect.stringMatching(/^\d+$/),
        prompt: prompts[i],
        prompt_token_ids: await tokenizer.encode(prompts[i]!),
        prompt_logprobs: null,
        finished: true,
        num_cached_tokens: 0,
      });
      expect(output.outputs).toEqual(
        expected[i]!.map((one, index) => ({
          ...{ index, ...one },
          ...{ cumulative_logprob: null, logprobs: null, stop_reason: null },
        })),
      );
    }
    expect(new Set(outputs.map(({ request_id }) => request_id)).size).toBe(3);
    expect(new Set(outputs.flatMap((one) => one.outputs.map(({ text }) => text))).size).toBe(6);
  });

  it("writes many prompts in the same steps, and none changes another's text", async () => {
    const run = vi.spyOn(ModelRunner.prototype, "run");
    const many = Array.from({ length: 24 }, (_, i) => `${prompts[i % 3]} ${i}`);
    const params = many.map((_, i) => ({ max_tokens: 4 + (i % 5), temperature: i % 2, seed: i }));
    const together = await answers(llm, many, params);
    const steps = run.mock.calls.length;
    expect(Math.max(...run.mock.calls.map(([items]) => items.length))).toBe(24);
    run.mockRestore();
    expect(steps).toBeLessThan(30);
    const alone: string[][] = [];
    for (const [i, prompt] of many.entries()) alone.push(...(await answers(llm, prompt, params[i])));
    expect(together).toEqual(alone);
  });

  it("is the same in each run of a program, and other prompts without a seed are drawn anew", async () => {
    const fresh = (seed?: number) => new LLM({ model, tokenizer }, seed === undefined ? {} : { seed });
    const [first, second, other] = [fresh(), fresh(), fresh(5)];
    const twice = ["The future of AI is", "The future of AI is"];
    const texts = await answers(first, twice);
    expect(await answers(second, twice)).toEqual(texts);
    expect(texts[0]).not.toEqual(texts[1]);
    expect(await answers(other, twice)).not.toEqual(texts);
    expect(await answers(first, twice)).not.toEqual(texts);
    // 16 tokens, as vLLM's default.
    expect((await first.generate("Hello", { ignore_eos: true }))[0]!.outputs[0]!.token_ids.length).toBe(16);
    for (const one of [first, second, other]) await one.close();
  });

  it("takes token ids, a limit of none, stop texts, and gives log probabilities", async () => {
    const ids = await tokenizer.encode("Hello, my name is");
    const greedy = { temperature: 0, ignore_eos: true };
    const [one] = await llm.generate("Hello, my name is", greedy);
    const alike = await llm.generate(
      [ids, { prompt_token_ids: ids }, { prompt: "Hello, my name is" }],
      greedy,
    );
    expect(alike.map(({ outputs }) => outputs)).toEqual(alike.map(() => one!.outputs));
    expect(alike.map(({ prompt }) => prompt)).toEqual([null, null, "Hello, my name is"]);
    expect((await llm.generate(ids, greedy)).length).toBe(1);
    const [long] = await llm.generate(ids, { ...greedy, max_tokens: null });
    expect(long!.outputs[0]).toMatchObject({ finish_reason: "length" });
    expect(long!.outputs[0]!.token_ids.length).toBe(64 - ids.length);
    const text = one!.outputs[0]!.text;
    const stop = text.slice(4, 6);
    const [cut] = await llm.generate(ids, { ...greedy, stop });
    const end = text.indexOf(stop);
    expect(cut!.outputs[0]).toMatchObject({
      text: text.slice(0, end),
      finish_reason: "stop",
      stop_reason: stop,
    });
    const [scored] = await llm.generate(ids, { ...greedy, max_tokens: 3, logprobs: 2, prompt_logprobs: 1 });
    const { logprobs, token_ids, cumulative_logprob } = scored!.outputs[0]!;
    expect(logprobs!.length).toBe(3);
    logprobs!.forEach((byId, i) => {
      expect(Object.keys(byId).length).toBe(2);
      expect(byId[token_ids[i]!]!.rank).toBe(1);
    });
    const sum = logprobs!.reduce((total, byId, i) => total + byId[token_ids[i]!]!.logprob, 0);
    expect(cumulative_logprob).toBeCloseTo(sum, 10);
    expect(scored!.prompt_logprobs!.length).toBe(ids.length);
    expect(scored!.prompt_logprobs![0]).toBeNull();
    scored!.prompt_logprobs!.slice(1).forEach((byId, i) => {
      const own = byId![ids[i + 1]!]!;
      expect(own.logprob).toBeLessThan(0);
      expect(own.rank === 1).toBe(Object.values(byId!).every(({ logprob }) => logprob <= own.logprob));
    });
  });

  it("tells how much of a prompt was known already", async () => {
    const [first] = await llm.generate("Nobody asked this before.", { max_tokens: 1 });
    const [again] = await llm.generate("Nobody asked this before.", { max_tokens: 1 });
    expect(first!.num_cached_tokens).toBe(0);
    expect(again!.num_cached_tokens).toBeGreaterThan(0);
  });

  it("refuses what cannot be done, in a line, and goes on", async () => {
    await expect(llm.generate(prompts, [{}, {}])).rejects.toThrow("3 prompts and 2 sets of parameters");
    await expect(llm.generate(["Hello", []])).rejects.toThrow("prompt must not be empty");
    await expect(llm.generate("Hello", { temperature: 9 })).rejects.toThrow(
      "temperature must be between 0 and 2",
    );
    await expect(llm.generate([[1, 99999]])).rejects.toThrow("token ids must be integers");
    await expect(llm.embed("Hello")).rejects.toThrow("this model is for generate, so it cannot embed");
    await expect(new LLM(join(folder, "none")).generate("Hello")).rejects.toThrow("none");
    expect(await llm.generate([])).toEqual([]);
    // What no compiler has seen. A max_tokens of "5" was never reached.
    const untyped = llm.generate.bind(llm) as (prompts: unknown, params?: unknown) => Promise<unknown>;
    for (const [params, message] of [
      [{ max_tokens: "5" }, 'max_tokens must be a whole number, 0 or more, not "5"'],
      [{ maxTokens: 5 }, "there is no parameter maxTokens; did you mean max_tokens?"],
      [{ n: 0 }, "n must be a whole number, 1 or more, not 0"],
      [{ stop: 5 }, "stop must be a text or a list of texts, not 5"],
      [{ stop_token_ids: [1.5] }, "stop_token_ids must be a list of token ids, not an array"],
      [{ temperature: "1" }, 'temperature must be a number, not "1"'],
      [{ ignore_eos: 1 }, "ignore_eos must be true or false, not 1"],
      [5, "parameters are given by name"],
    ])
      await expect(untyped("Hello", params)).rejects.toThrow(String(message));
    for (const prompt of [5, null, ["a", null], [{ text: "a" }], [["a"]]])
      await expect(untyped(prompt)).rejects.toThrow("a prompt must be a text, token ids");
    expect(() => new LLM("none", { max_model_len: 5 } as object)).toThrow("did you mean maxModelLen");
    expect((await answers(llm, prompts)).length).toBe(3);
  });
});

describe("LLM.chat", () => {
  it("writes what the server answers, of one conversation or several", async () => {
    const conversation = [{ role: "user" as const, content: "Hello" }];
    const other = [...conversation, { role: "assistant" as const, content: "Hi" }, ...conversation];
    const params = { temperature: 0, max_tokens: 8 };
    const [one] = await llm.chat(conversation, params);
    const { text } = await new ChatTemplate(tokenizer).render(
      { messages: conversation },
      { addGenerationPrompt: true },
    );
    expect(one!.prompt).toBe(text);
    const server = createServer({ runner: new ModelRunner(model), tokenizer, modelName: "tiny" });
    const url = await server.listen({ port: 0 });
    const json = { model: "tiny", messages: conversation, ...params };
    const { body } = await send(`${url}/v1/chat/completions`, { json });
    expect(one!.outputs[0]!.text).toBe(body.choices[0].message.content);
    await server.close(0);
    const both = await llm.chat([conversation, other], params);
    expect(both[0]!.outputs).toEqual(one!.outputs);
    expect(both[1]!.prompt).toContain("Hi");
    await expect(llm.chat([{ role: "nobody" as never, content: "x" }])).rejects.toThrow("role");
  });
});

describe("LLM of a path", () => {
  it("loads a model's folder, a finished run and a GGUF file", async () => {
    const path = join(folder, "run");
    // Which tokens end an answer is in the files, not in the model.
    const greedy = { temperature: 0, ignore_eos: true };
    mkdirSync(path);
    writeFileSync(join(path, "config.json"), JSON.stringify({ out_dir: path }));
    await model.savePretrained(join(path, "model"), tokenizer);
    const expected = await answers(llm, prompts, greedy);
    for (const place of [join(path, "model"), path]) {
      const loaded = new LLM(place, { maxSequences: 4 });
      expect(await answers(loaded, prompts, greedy)).toEqual(expected);
      await loaded.close();
    }
    const gguf = new URL("../../shared/data/models/llama-2-tiny-random.gguf", import.meta.url).pathname;
    if (!existsSync(gguf)) return;
    const loaded = new LLM(gguf);
    expect((await loaded.generate("Hello", { ignore_eos: true }))[0]!.outputs[0]!.token_ids.length).toBe(16);
    await loaded.close();
  });
});

describe("LLM of an encoder", () => {
  it("embeds and classifies as the pipelines do", async () => {
    const [pieces, encoder, sorter] = [wordPieces(), join(folder, "plain"), join(folder, "sorter")];
    await randomBert("Model").savePretrained(encoder, pieces);
    await randomBert("ForSequenceClassification", labels).savePretrained(sorter, pieces);
    const vectors = await pipeline("feature-extraction", encoder);
    const { data, dims } = await vectors(texts, { pooling: "mean", normalize: true });
    const embedder = new LLM(encoder);
    const embedded = await embedder.embed(texts);
    expect(embedded.flatMap(({ outputs }) => outputs.embedding)).toEqual([...data]);
    expect(embedded[1]).toMatchObject({ finished: true, prompt_token_ids: await pieces.encode(texts[1]!) });
    expect((await embedder.embed(texts[0]!))[0]!.outputs.embedding).toEqual([...data.subarray(0, dims[1])]);
    await expect(embedder.generate("Hello")).rejects.toThrow("this model is for embed, so it writes no text");
    await embedder.close();
    const classifier = new LLM(await fromPretrained(sorter));
    const [first] = await classifier.classify(texts);
    const scores = await (await pipeline("text-classification", sorter))(texts[0]!, { top_k: null });
    const byLabel = new Map(
      (scores as { label: string; score: number }[]).map(({ label, score }) => [label, score]),
    );
    expect(first!.outputs.probs).toEqual(Object.values(labels.id2label).map((label) => byLabel.get(label)));
    expect(first!.outputs.label).toBe((scores as { label: string }[])[0]!.label);
    await classifier.close();
  });
});
