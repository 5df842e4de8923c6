import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { pipeline } from "../models/pipeline.ts";
import { TextReader } from "../models/text_reader.ts";
import { ModelEncoderRunner } from "../serve/engine/encoder_runner.ts";
import { createServer, ModelPool, type Server } from "../serve/index.ts";
import { loadInto } from "../serve/loading.ts";
import { officialClient, send } from "./serve_fake.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

/** Real encoders, made here, behind a real socket and the official client. */
const folder = mkdtempSync(join(tmpdir(), "kiln-encoders-"));
const tokenizer = wordPieces();
const vectorsOf = (text: string) => pipeline("feature-extraction", join(folder, text));
let server: Server;
let url: string;
let client: OpenAI;

/** Saves a model, with further files, and returns its path. */
async function save(name: string, head: string, config: object = {}, files: Record<string, unknown> = {}) {
  const path = join(folder, name);
  await randomBert(head, config).savePretrained(path, tokenizer);
  for (const [file, content] of Object.entries(files)) {
    mkdirSync(join(path, file, ".."), { recursive: true });
    const own = file === "config.json" ? JSON.parse(readFileSync(join(path, file), "utf8")) : null;
    writeFileSync(join(path, file), JSON.stringify(own ? { ...own, ...(content as object) } : content));
  }
  return path;
}

const pooling = (mode: string) => ({
  "modules.json": [
    { type: "sentence_transformers.models.Transformer" },
    { type: "sentence_transformers.models.Pooling" },
  ],
  "1_Pooling/config.json": { [`pooling_mode_${mode}`]: true },
});
const one = { id2label: { 0: "LABEL_0" } };

beforeAll(async () => {
  await openDevice();
  const models = new ModelPool();
  const paths = {
    plain: await save("plain", "Model"),
    cls: await save("cls", "Model", {}, pooling("cls_token")),
    short: await save(
      "short",
      "Model",
      {},
      {
        "config.json": { is_matryoshka: true },
        "sentence_bert_config.json": { max_seq_length: 6 },
      },
    ),
    sorter: await save("sorter", "ForSequenceClassification", labels),
    several: await save("several", "ForSequenceClassification", {
      ...labels,
      problem_type: "multi_label_classification",
    }),
    cross: await save("cross", "ForSequenceClassification", one),
    raw: await save("raw", "ForSequenceClassification", one, {
      "config.json": { sentence_transformers: { activation_fn: "torch.nn.modules.linear.Identity" } },
    }),
  };
  for (const [name, path] of Object.entries(paths))
    await loadInto(models, { name, aliases: [`${name}-too`], path }, { dtype: "f32" }, 0);
  const writer = new LlamaForCausalLM(
    tinyllmConfig({
      vocab_size: tokenizer.vocabSize,
      hidden_size: 16,
      num_attention_heads: 2,
      num_hidden_layers: 1,
    }),
  ).init(1);
  const path = join(folder, "writer");
  await writer.savePretrained(path, tokenizer);
  await loadInto(models, { name: "writer", aliases: [], path }, { dtype: "f32" }, 2 ** 20);
  server = createServer({ models });
  url = await server.listen({ port: 0 });
  client = officialClient(url);
});
afterAll(async () => {
  await server.close(0);
  rmSync(folder, { recursive: true });
});

const post = (path: string, json: unknown) => send(`${url}${path}`, { json });
const length = (vector: readonly number[]) => Math.hypot(...vector);

describe("/v1/embeddings", () => {
  it("W46: gives the official client the vectors of the pipeline, in order, in both encodings", async () => {
    const { data, dims } = await (await vectorsOf("plain"))(texts, { pooling: "mean", normalize: true });
    // The client asks for base64 unless it is told what to ask for.
    for (const format of [undefined, "float", "base64"] as const) {
      const asked = { model: "plain", input: texts, ...(format && { encoding_format: format }) };
      const answer = await client.embeddings.create(asked);
      expect(answer.model).toBe("plain");
      answer.data.forEach(({ embedding, index, object }, i) => {
        expect([index, object]).toEqual([i, "embedding"]);
        const expected = data.subarray(i * dims[1], (i + 1) * dims[1]);
        if (format !== "base64") expect(embedding).toEqual([...expected]);
        else {
          const bytes = Buffer.from(embedding as never as string, "base64");
          expect(Array.from({ length: dims[1] }, (_, j) => bytes.readFloatLE(4 * j))).toEqual([...expected]);
        }
        expect(length([...expected])).toBeCloseTo(1, 5);
      });
      const tokens = (await tokenizer.encodeTexts(texts)).reduce((sum, { ids }) => sum + ids.length, 0);
      expect(answer.usage).toEqual({ prompt_tokens: tokens, total_tokens: tokens });
    }
  });

  it("W46: takes a text, its ids, and lists of either", async () => {
    const ids = await Promise.all(texts.map((text) => tokenizer.encode(text)));
    const ask = async (input: never) => (await client.embeddings.create({ model: "plain-too", input })).data;
    const all = await ask(texts as never);
    expect(await ask(ids as never)).toEqual(all);
    expect(await ask(ids[1] as never)).toEqual([{ ...all[1], index: 0 }]);
    expect(await ask(texts[2] as never)).toEqual([{ ...all[2], index: 0 }]);
  });

  it("makes vectors as the model's own files say", async () => {
    const { data } = await (await vectorsOf("cls"))(texts[0], { pooling: "cls", normalize: false });
    const answer = await client.embeddings.create({ model: "cls", input: texts[0] });
    expect(answer.data[0].embedding).toEqual([...data]);
    expect(length(answer.data[0].embedding)).not.toBeCloseTo(1, 2);
  });

  it("W46: shortens vectors of models that were trained for it alone", async () => {
    const whole = (await client.embeddings.create({ model: "short", input: "good" })).data[0].embedding;
    const part = await client.embeddings.create({ model: "short", input: "good", dimensions: 4 });
    const norm = length(whole.slice(0, 4));
    part.data[0].embedding.forEach((x, i) => {
      expect(x).toBeCloseTo(whole[i] / norm, 6);
    });
    expect(part.data[0].embedding.length).toBe(4);
    const asked = { model: "plain", input: "good" };
    expect((await client.embeddings.create({ ...asked, dimensions: 16 })).data[0].embedding.length).toBe(16);
    for (const dimensions of [4, 17])
      expect((await post("/v1/embeddings", { ...asked, dimensions })).body.error).toMatchObject({
        param: "dimensions",
        message: "this model's vectors have 16 dimensions: leave dimensions out",
      });
  });

  it("refuses what it cannot read, with the field and the reason", async () => {
    const long = "good ".repeat(60);
    const cases: [input: unknown, message: RegExp][] = [
      [undefined, /input is missing/],
      ["", /must not be empty/],
      [[], /must not be empty/],
      [["good", ""], /must not be empty/],
      [[[]], /must not be empty/],
      [["good", [1]], /must not mix/],
      [[["good", "bad"]], /must not mix/],
      [{ text: "good" }, /must be a string/],
      [[21], /from 0 to 20/],
      [[-1], /from 0 to 20/],
      [[1.5], /from 0 to 20/],
      [Array(2049).fill("a"), /2048 texts at most, this has 2049/],
      [long, /reads 40 tokens at most, but the text has 62; shorten it, or give truncate_prompt_tokens/],
      [["a", long], /text 1 has 62/],
      [Array(41).fill(5), /has 41/],
      ["x".repeat(6000), /over 5120 characters/],
    ];
    for (const [input, message] of cases) {
      const { status, body } = await post("/v1/embeddings", { model: "plain", input });
      expect([status, body.error.param]).toEqual([400, "input"]);
      expect(body.error.message).toMatch(message);
    }
    const prompted = await post("/v1/embeddings", { model: "plain", input: "a", prompt: "a" });
    expect(prompted.body.error.message).toBe("prompt is not supported: give the texts as input");
    const cut = await post("/v1/embeddings", { model: "plain", input: long, truncate_prompt_tokens: -1 });
    const whole = await post("/v1/embeddings", { model: "plain", input: "good ".repeat(38) });
    expect(cut.body).toEqual(whole.body);
    const none = await post("/v1/embeddings", { model: "plain", input: long, truncate_prompt_tokens: 0 });
    expect(none.body.error).toMatchObject({
      param: "truncate_prompt_tokens",
      message: "truncate_prompt_tokens: must be -1 or a number of tokens from 1",
    });
    const six = await post("/v1/embeddings", { model: "short", input: long, truncate_prompt_tokens: 99 });
    expect(six.body.usage.prompt_tokens).toBe(6);
  });

  it("takes bodies up to 16 MiB, where other routes take 4", async () => {
    const json = (bytes: number) => ({ model: "none", input: "x", user: "x".repeat(bytes) });
    expect((await post("/v1/embeddings", json(15 * 2 ** 20))).status).toBe(404);
    expect((await post("/v1/embeddings", json(17 * 2 ** 20))).status).toBe(413);
    expect((await post("/v1/completions", { ...json(5 * 2 ** 20), prompt: "x" })).status).toBe(413);
  });
});

describe("/classify", () => {
  it("W47: says the likeliest label, and probabilities that add up to 1", async () => {
    const { body } = await post("/classify", { model: "sorter", input: texts });
    const found = await (await pipeline("text-classification", join(folder, "sorter")))(texts, {
      top_k: null,
    });
    expect(body).toMatchObject({ object: "list", model: "sorter" });
    const tokens = (await tokenizer.encodeTexts(texts)).reduce((sum, { ids }) => sum + ids.length, 0);
    expect(body.usage).toMatchObject({ prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0 });
    const names = Object.values(labels.id2label);
    body.data.forEach(
      (one: { index: number; label: string; probs: number[]; num_classes: number }, i: number) => {
        expect([one.index, one.num_classes]).toEqual([i, 3]);
        expect(Math.abs(one.probs.reduce((a, b) => a + b, 0) - 1)).toBeLessThan(1e-6);
        const [best] = found[i] as { label: string; score: number }[];
        expect(one.label).toBe(best.label);
        expect(one.probs[names.indexOf(best.label)]).toBe(best.score);
      },
    );
    expect(new Set(body.data.map(({ probs }: { probs: number[] }) => probs[0])).size).toBe(texts.length);
  });

  it("gives each of several labels a probability of its own", async () => {
    const { probs } = (await post("/classify", { model: "several", input: "good" })).body.data[0];
    const logits = await new TextReader(randomBert("ForSequenceClassification", labels), tokenizer).logits(
      await tokenizer.encodeTexts(["good"]),
    );
    expect(probs).toEqual(Array.from(logits[0], (x) => 1 / (1 + Math.exp(-x))));
  });
});

describe("/score and /rerank", () => {
  it("of a cross-encoder are its sigmoid, or its logit where its config says so", async () => {
    const pairs = texts.map((text) => ["who is good", text] as const);
    const reader = new TextReader(randomBert("ForSequenceClassification", one), tokenizer);
    const logits = (await reader.logits(await tokenizer.encodeTexts(pairs))).map(([x]) => x);
    const asked = { text_1: "who is good", text_2: texts };
    const scoresOf = async (model: string) =>
      (await post("/score", { model, ...asked })).body.data.map(({ score }: { score: number }) => score);
    expect(await scoresOf("raw")).toEqual(logits);
    expect(await scoresOf("cross")).toEqual(logits.map((x) => 1 / (1 + Math.exp(-x))));
    const ranked = (
      await post("/v1/rerank", { model: "raw", query: "who is good", documents: texts, top_n: 3 })
    ).body;
    const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a]);
    expect(ranked.results).toEqual(
      order.slice(0, 3).map((index) => ({
        ...{ index, relevance_score: logits[index], document: { text: texts[index] } },
      })),
    );
    const bare = await post("/v2/rerank", {
      ...{ model: "raw", query: "who is good", return_documents: false },
      documents: texts.map((text) => ({ text })),
    });
    expect(bare.body.results.map(({ index }: { index: number }) => index)).toEqual(order);
    expect(bare.body.results[0].document).toBeUndefined();
  });

  it("of an embedding model are the cosines of vectors", async () => {
    const vectors = (await client.embeddings.create({ model: "cls", input: texts })).data;
    const [a, b, c] = vectors.map(({ embedding }) => embedding);
    const cosine = (x: number[], y: number[]) =>
      x.reduce((sum, value, i) => sum + value * y[i], 0) / length(x) / length(y);
    const asked = { model: "cls", text_1: [texts[0], texts[1]], text_2: [texts[1], texts[2]] };
    const { data } = (await post("/v1/score", asked)).body;
    expect(data[0].score).toBeCloseTo(cosine(a, b), 12);
    expect(data[1].score).toBeCloseTo(cosine(b, c), 12);
    const many = Array.from({ length: 30 }, (_, i) => texts[i % texts.length]!.slice(0, 3 + i));
    const own = (await post("/score", { model: "cls", text_1: many, text_2: many })).body.data;
    const scores: number[] = own.map(({ score }: { score: number }) => score);
    expect([Math.min(...scores) > 0.999999, Math.max(...scores)]).toEqual([true, 1]);
    const { status, body } = await post("/score", { ...asked, text_2: texts });
    expect([status, body.error.param]).toEqual([400, "text_2"]);
  });
});

describe("models of another kind", () => {
  it("W48: have tokens too, of texts, not of conversations", async () => {
    const [text] = texts;
    const [{ ids }] = await tokenizer.encodeTexts([text]);
    const { body } = await post("/tokenize", { model: "plain", prompt: text, return_token_strs: true });
    expect(body).toMatchObject({ count: ids.length, tokens: [...ids], token_strs: expect.any(Array) });
    const bare = await post("/tokenize", { model: "plain", prompt: text, add_special_tokens: false });
    expect(bare.body.tokens).toEqual([...ids].slice(1, -1));
    const back = await post("/detokenize", { model: "plain", tokens: bare.body.tokens });
    expect(back.body.prompt.toLowerCase()).toBe(text.toLowerCase());
    const messages = [{ role: "user", content: "a" }];
    expect((await post("/tokenize", { model: "plain", messages })).body.error.code).toBe(
      "model_not_supported",
    );
    const long = await post("/tokenize", { model: "plain", prompt: "a".repeat(100_000) });
    expect([long.status, long.body.error.code]).toEqual([400, "context_length_exceeded"]);
  });

  it("W47: are refused with what they are for, and who could do it", async () => {
    const cases: [path: string, body: object, message: string][] = [
      [
        "/v1/completions",
        { model: "plain", prompt: "a" },
        "`plain` is an embedding model, which writes no text: use `writer`",
      ],
      [
        "/v1/embeddings",
        { model: "writer", input: "a" },
        "`writer` is a model that writes text, which /v1/embeddings cannot use: use `plain`, ",
      ],
      ["/v1/embeddings", { model: "sorter", input: "a" }, "`sorter` is a classifier, which /v1/embeddings"],
      [
        "/classify",
        { model: "writer", input: "a" },
        "`writer` is a model that writes text, which /classify cannot use: use `sorter`",
      ],
      [
        "/rerank",
        { model: "sorter", query: "a", documents: ["a"] },
        "`sorter` is a classifier, which /rerank cannot use",
      ],
    ];
    for (const [path, json, message] of cases) {
      const { status, body } = await post(path, json);
      expect([status, body.error.param, body.error.code]).toEqual([400, "model", "model_not_supported"]);
      expect(body.error.message).toContain(message);
    }
    const { data } = (await send(`${url}/v1/models`)).body;
    const tasks = Object.fromEntries(data.map(({ id, task }: { id: string; task: string }) => [id, task]));
    expect(tasks).toMatchObject({
      writer: "generate",
      plain: "embed",
      sorter: "classify",
      "raw-too": "score",
    });
  });

  it("count in the metrics what they have, and no more", async () => {
    const metrics = async () => (await send(`${url}/metrics`)).text;
    const value = (text: string, name: string) =>
      Number(new RegExp(`^kiln:${name}\\{model_name="sorter"[^}]*\\} (\\d+)$`, "m").exec(text)?.[1]);
    const before = await metrics();
    const { usage } = (await post("/classify", { model: "sorter", input: texts })).body;
    const after = await metrics();
    const grown = (name: string) => value(after, name) - value(before, name);
    expect(grown("prompt_tokens_total")).toBe(usage.prompt_tokens);
    expect(/request_success_total\{model_name="sorter",finished_reason="stop"\}/.test(after)).toBe(true);
    expect(grown("request_success_total")).toBe(1);
    expect(value(after, "num_requests_running")).toBe(0);
    expect(after).not.toContain("NaN");
    expect(after).not.toMatch(/kv_cache_usage_perc\{model_name="sorter"/);
  });

  it("that have no route are refused before they are served", async () => {
    const path = await save("tagger", "ForTokenClassification", labels);
    const models = new ModelPool();
    const source = { name: "tagger", aliases: [], path };
    await expect(loadInto(models, source, { dtype: "f32" }, 0)).rejects.toThrow(
      "is for token-classification, which kiln serve has no route for",
    );
    const dense = await save(
      "dense",
      "Model",
      {},
      { "modules.json": [{ type: "sentence_transformers.models.Dense" }] },
    );
    await expect(loadInto(models, { ...source, path: dense }, { dtype: "f32" }, 0)).rejects.toThrow(
      "modules.json has a Dense, which kiln does not compute",
    );
  });
});

it("a text's numbers have the same bits whatever else is in the batch", async () => {
  // Wide enough that a lone text's products would be summed in other parts than a batch's, if that were allowed.
  const sizes = { hidden_size: 64, num_attention_heads: 4, intermediate_size: 2048, initializer_range: 0.2 };
  const reader = new TextReader(randomBert("Model", sizes), tokenizer);
  const runner = new ModelEncoderRunner(reader, { pooling: "mean", normalize: true });
  const encoded = await tokenizer.encodeTexts(texts);
  const alone: Float32Array[] = [];
  for (const text of encoded) alone.push((await runner.run([text]))[0]);
  for (let trial = 0; trial < 8; trial++) {
    const order = Array.from({ length: 2 ** trial }, (_, i) => (i * 7 + trial) % encoded.length);
    const together = await runner.run(order.map((i) => encoded[i]));
    together.forEach((vector, i) => {
      expect(Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength)).toEqual(
        Buffer.from(alone[order[i]].buffer, alone[order[i]].byteOffset, alone[order[i]].byteLength),
      );
    });
  }
});
