import { Ollama } from "ollama";
import { describe, expect, it } from "vitest";
import type { EncoderRunner } from "../serve/engine/encoder_runner.ts";
import { createServer, ModelPool } from "../serve/index.ts";
import { fakeChatTokenizer, fakeTokenizer, makeEngine, startServer } from "./serve_fake.ts";
import { texts, wordPieces } from "./support/word_pieces.ts";

/** What Ollama's client is told of the models, and the vectors that it gets. */
const MODEL = "tiny/fake";
const prompt = "once upon a time";
const greedy = { temperature: 0, num_predict: 12 };

describe("the models", () => {
  it("are listed, shown and found by their names with :latest", async () => {
    const server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 512 });
    const client = new Ollama({ host: server.url });
    const { models } = await client.list();
    expect(models).toMatchObject([
      { name: `${MODEL}:latest`, model: `${MODEL}:latest`, digest: expect.stringMatching(/^[0-9a-f]{64}$/) },
    ]);
    const shown = await client.show({ model: `${MODEL}:latest` });
    expect(shown.template).toBe(server.tokenizer.chatTemplate);
    expect(shown.capabilities).toEqual(["completion", "tools"]);
    const { response } = await client.generate({ model: `${MODEL}:latest`, prompt, options: greedy });
    expect(response).toBe((await client.generate({ model: MODEL, prompt, options: greedy })).response);
    expect((await client.ps()).models).toMatchObject([{ name: `${MODEL}:latest`, context_length: 512 }]);
    expect((await client.version()).version).toMatch(/^\d+\.\d+\.\d+/);
    await server.server.close();
  });

  it("say of what they are made, and embed", async () => {
    const models = new ModelPool();
    const tokenizer = wordPieces();
    const facts = {
      family: "bert",
      format: "safetensors" as const,
      parameters: 33_360_000,
      bytes: 133_440_000,
      dtype: "f32",
    };
    const runner: EncoderRunner = {
      ...{ vocabSize: 1000, maxModelLen: 8, maxBatchTokens: 64 },
      rowLength: (tokens) => tokens,
      run: async (read) => read.map(({ ids }) => Float32Array.of(ids.length, ids[1] ?? 0, 1, 2)),
    };
    models.addEncoder({
      name: "vectors",
      runner,
      tokenizer,
      facts,
      task: { name: "embed", width: 4, matryoshka: true },
    });
    models.addText({
      name: "writer:1b",
      runner: makeEngine({ vocabSize: 300 }).engine.runner,
      tokenizer: fakeTokenizer(),
    });
    const small = createServer({ models, apiKey: "secret" });
    const host = await small.listen({ port: 0 });
    const other = new Ollama({ host, headers: { Authorization: "Bearer secret" } });
    const details = {
      format: "safetensors",
      family: "bert",
      parameter_size: "33.4M",
      quantization_level: "F32",
    };
    expect((await other.list()).models).toMatchObject([
      { name: "vectors:latest", size: 133_440_000, details },
      { name: "writer:1b", size: 0 },
    ]);
    const card = await other.show({ model: "vectors" });
    expect(card).toMatchObject({
      details,
      capabilities: ["embedding"],
      model_info: { "bert.context_length": 8 },
    });
    const { ids } = (await tokenizer.encodeTexts([texts[0]!]))[0]!;
    const embedded = await other.embed({ model: "vectors", input: texts.slice(0, 2) });
    expect(embedded.embeddings.length).toBe(2);
    expect(embedded.embeddings[0]).toEqual([ids.length, ids[1], 1, 2]);
    expect(embedded.total_duration).toBeGreaterThan(0);
    const short = await other.embed({ model: "vectors", input: texts[0]!, dimensions: 2 });
    expect(Math.hypot(...short.embeddings[0]!)).toBeCloseTo(1, 5);
    expect((await other.embeddings({ model: "vectors:latest", prompt: texts[0]! })).embedding).toEqual(
      embedded.embeddings[0],
    );
    const long = "the cat sat on the mat ".repeat(4);
    await expect(other.embed({ model: "vectors", input: long })).rejects.toThrow(/8 tokens at most/);
    const cut = await other.embed({ model: "vectors", input: long, truncate: true });
    expect([cut.embeddings[0]![0], cut.prompt_eval_count]).toEqual([8, 8]);
    await expect(other.generate({ model: "vectors", prompt })).rejects.toThrow(/writes no text/);
    await expect(new Ollama({ host }).list()).rejects.toMatchObject({
      status_code: 401,
      error: expect.stringMatching(/API key/),
    });
    await small.close(0);
  });
});
