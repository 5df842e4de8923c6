import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { fakeTokenizer, IDLE, idle, send, startServer, type TestServer, until } from "./serve_fake.ts";

const MODEL = "tiny/fake";
let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterEach(() => until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE)));
afterAll(() => server.server.close());

const base = { model: MODEL, prompt: "once upon a time", temperature: 0 };
const post = (json: Record<string, unknown>) =>
  send(`${server.url}/v1/completions`, { json: { ...base, ...json } });

interface Chunk {
  id: string;
  created: number;
  model: string;
  choices: {
    index: number;
    text: string;
    finish_reason: string | null;
    logprobs: Record<string, unknown[]> | null;
  }[];
  usage?: unknown;
}

/** Events of a stream: every one `data: JSON`, the last `[DONE]`. */
async function chunksOf(json: Record<string, unknown>): Promise<Chunk[]> {
  const { status, headers, text } = await post({ ...json, stream: true });
  expect(status).toBe(200);
  expect(headers.get("content-type")).toContain("text/event-stream");
  expect(headers.get("cache-control")).toBe("no-cache");
  const events = text.split("\n\n");
  expect(events.splice(-2)).toEqual(["data: [DONE]", ""]);
  return events.map((event) => {
    expect(event.startsWith("data: ")).toBe(true);
    return JSON.parse(event.slice(6));
  });
}

const textOf = (chunks: Chunk[], index = 0) =>
  chunks
    .flatMap(({ choices }) => choices.filter((choice) => choice.index === index).map(({ text }) => text))
    .join("");

describe("completions", () => {
  it("W1: minimal request", async () => {
    const { status, headers, body } = await send(`${server.url}/v1/completions`, {
      json: { model: MODEL, prompt: "once upon" },
    });
    expect(status).toBe(200);
    expect(headers.get("content-type")).toContain("application/json");
    expect(body).toMatchObject({ object: "text_completion", model: MODEL });
    expect(body.id).toMatch(/^cmpl-/);
    expect(Number.isInteger(body.created)).toBe(true);
    expect(body.choices).toHaveLength(1);
    // At temperature 1 the end of text may come by chance before the 16 tokens are full.
    const { finish_reason } = body.choices[0];
    expect(body.choices[0]).toMatchObject({ index: 0, logprobs: null });
    if (finish_reason === "length") expect(body.usage.completion_tokens).toBe(16);
    else expect(finish_reason).toBe("stop");
  });

  it("W3: usage counts a prompt once whatever n", async () => {
    const prompts = ["once upon", "the dog was"];
    const counts = await Promise.all(
      prompts.map(async (prompt) => (await server.tokenizer.encode(prompt)).length),
    );
    const { body } = await post({ prompt: prompts, n: 3, max_tokens: 4, ignore_eos: true });
    const prompt_tokens = counts[0] + counts[1];
    expect(body.usage).toMatchObject({
      prompt_tokens,
      completion_tokens: 24,
      total_tokens: prompt_tokens + 24,
    });
  });

  it("W11 W12: a stream gives the same text, one finish per choice", async () => {
    for (const options of [{}, { temperature: 1, seed: 5, n: 3 }, { echo: true }, { max_tokens: 40 }]) {
      const { body } = await post(options);
      const chunks = await chunksOf(options);
      for (const { index, text, finish_reason } of body.choices) {
        expect(textOf(chunks, index)).toBe(text);
        const own = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));
        expect(own.map((choice) => choice.finish_reason).filter((reason) => reason !== null)).toEqual([
          finish_reason,
        ]);
        expect(own.at(-1)!.finish_reason).toBe(finish_reason);
      }
      const heads = new Set(chunks.map(({ id, created, model }) => `${id} ${created} ${model}`));
      expect(heads.size).toBe(1);
      expect(chunks.some((chunk) => "usage" in chunk)).toBe(false);
    }
  });

  it("W13: include_usage puts null on all chunks and the counts on one more", async () => {
    const chunks = await chunksOf({ stream_options: { include_usage: true } });
    const last = chunks.pop()!;
    expect(last.choices).toEqual([]);
    expect(last.usage).toEqual((await post({})).body.usage);
    expect(chunks.every(({ usage }) => usage === null)).toBe(true);
    const running = await chunksOf({ stream_options: { include_usage: true, continuous_usage_stats: true } });
    expect(running.every(({ usage }) => (usage as { total_tokens: number }).total_tokens > 0)).toBe(true);
  });

  it("W17: stop strings, with the string kept on demand", async () => {
    const whole = (await post({ max_tokens: 30 })).body.choices[0].text as string;
    const stop = whole.slice(9, 12);
    const at = whole.indexOf(stop);
    const cut = await post({ max_tokens: 30, stop });
    // The engine has let go of it before the answer is out.
    expect(idle(server.engine)).toEqual(IDLE);
    expect(cut.body.usage.completion_tokens).toBeLessThan(30);
    expect(cut.body.choices[0]).toMatchObject({
      text: whole.slice(0, at),
      finish_reason: "stop",
      stop_reason: stop,
    });
    expect(textOf(await chunksOf({ max_tokens: 30, stop: ["never there", stop] }))).toBe(whole.slice(0, at));
    const kept = await post({ max_tokens: 30, stop: [stop], include_stop_str_in_output: true });
    expect(kept.body.choices[0].text).toBe(whole.slice(0, at + stop.length));
  });

  it("W28: stop_token_ids, min_tokens, ignore_eos, return_token_ids", async () => {
    const ids = (await post({ max_tokens: 8, return_token_ids: true, ignore_eos: true })).body.choices[0]
      .token_ids;
    expect(ids).toHaveLength(8);
    const fourth = ids[3] as number;
    const first = ids.indexOf(fourth);
    const stopped = (await post({ max_tokens: 8, return_token_ids: true, stop_token_ids: [fourth] })).body
      .choices[0];
    expect(stopped).toMatchObject({
      finish_reason: "stop",
      stop_reason: fourth,
      token_ids: ids.slice(0, first + 1),
    });
    const later = await post({
      max_tokens: 8,
      min_tokens: 6,
      return_token_ids: true,
      stop_token_ids: [fourth],
    });
    expect(later.body.choices[0].token_ids.slice(0, 6)).not.toContain(fourth);
    const eos = { max_tokens: 8, logit_bias: { "0": 100 }, return_token_ids: true };
    expect((await post(eos)).body.choices[0]).toMatchObject({
      text: "",
      finish_reason: "stop",
      stop_reason: null,
      token_ids: [0],
    });
    expect((await post({ ...eos, ignore_eos: true })).body.choices[0]).toMatchObject({
      finish_reason: "length",
      token_ids: new Array(8).fill(0),
    });
  });

  it("W19 W21 W22: log probabilities", async () => {
    for (const logprobs of [0, 1, 5]) {
      const { body } = await post({ logprobs, max_tokens: 20, ignore_eos: true, temperature: 1, seed: 3 });
      const { text, logprobs: got } = body.choices[0];
      for (const column of Object.values(got) as unknown[][]) expect(column).toHaveLength(20);
      expect(got.token_logprobs.every((value: number) => value <= 0)).toBe(true);
      got.top_logprobs.forEach((top: Record<string, number>, i: number) => {
        expect(Object.keys(top).length).toBeGreaterThanOrEqual(1);
        expect(Object.keys(top).length).toBeLessThanOrEqual(logprobs + 1);
        expect(top[got.tokens[i]]).toBeGreaterThanOrEqual(got.token_logprobs[i]);
      });
      expect(got.text_offset[0]).toBe(0);
      const chunks = await chunksOf({ logprobs, max_tokens: 20, ignore_eos: true, temperature: 1, seed: 3 });
      expect(textOf(chunks)).toBe(text);
      for (const key of Object.keys(got)) {
        expect(chunks.flatMap(({ choices }) => choices[0].logprobs![key])).toEqual(got[key]);
      }
    }
    expect((await post({ logprobs: 21 })).body.error.param).toBe("logprobs");
  });

  it("W23: echo with scores, as evaluation tools ask for them", async () => {
    const prompt = await server.tokenizer.encode("the dog was happy");
    const options = { prompt, max_tokens: 1, logprobs: 1, echo: true, seed: 1234 };
    const { logprobs, text } = (await post(options)).body.choices[0];
    expect(logprobs.token_logprobs).toHaveLength(prompt.length + 1);
    expect(logprobs.token_logprobs[0]).toBeNull();
    expect(logprobs.top_logprobs[0]).toBeNull();
    expect(logprobs.token_logprobs.slice(1).every((value: unknown) => typeof value === "number")).toBe(true);
    expect(text.startsWith("the dog was happy")).toBe(true);
    const scoredOnly = (await post({ ...options, max_tokens: 0 })).body.choices[0];
    expect(scoredOnly).toMatchObject({ text: "the dog was happy", finish_reason: "length" });
    expect(scoredOnly.logprobs.token_logprobs).toEqual(logprobs.token_logprobs.slice(0, -1));
    const plain = (await post({ prompt: "the dog", echo: true, max_tokens: 3 })).body.choices[0]
      .text as string;
    expect(plain.startsWith("the dog")).toBe(true);
  });

  it("W24: best_of returns the likeliest, best first", async () => {
    const options = { temperature: 1, seed: 11, logprobs: 0, max_tokens: 6, ignore_eos: true };
    const all = (await post({ ...options, n: 5 })).body.choices;
    const best = (await post({ ...options, n: 2, best_of: 5 })).body;
    const score = (choice: { logprobs: { token_logprobs: number[] } }) =>
      choice.logprobs.token_logprobs.reduce((a, b) => a + b);
    const ranked = [...all].sort((a, b) => score(b) - score(a)).slice(0, 2);
    expect(best.choices.map(({ text }: { text: string }) => text)).toEqual(ranked.map(({ text }) => text));
    expect(best.choices.map(({ index }: { index: number }) => index)).toEqual([0, 1]);
    expect(best.usage.completion_tokens).toBe(30);
    // The order is by log probabilities also where the client does not want to see them.
    const unseen = (await post({ ...options, logprobs: null, n: 2, best_of: 5 })).body;
    expect(unseen.choices).toEqual(best.choices.map((choice: object) => ({ ...choice, logprobs: null })));
  });

  it("W25: a seed fixes the answer and tells choices apart", async () => {
    const options = { temperature: 1, seed: 42, n: 3 };
    const texts = async () => (await post(options)).body.choices.map(({ text }: { text: string }) => text);
    const first = await texts();
    expect(await texts()).toEqual(first);
    expect(new Set(first).size).toBe(3);
    expect((await post({ temperature: 1 })).body.choices[0].text).not.toBe(
      (await post({ temperature: 1 })).body.choices[0].text,
    );
  });

  it("W20: seeds past 2^53 are exact, whatever the spelling of the key, and the last of equal keys counts", async () => {
    const answer = async (seed: string) => {
      const rest = JSON.stringify({ ...base, temperature: 1, max_tokens: 12, ignore_eos: true });
      const { status, body } = await send(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: `${rest.slice(0, -1)},${seed}}`,
      });
      return status === 200 ? (body.choices[0].text as string) : body.error.param;
    };
    const seeds = [
      "9007199254740991",
      "9007199254740992",
      "9007199254740993",
      "-9223372036854775808",
      "9223372036854775807",
    ];
    const texts = [];
    for (const seed of seeds) texts.push(await answer(`"seed":${seed}`));
    expect(new Set(texts).size).toBe(seeds.length);
    for (const [i, seed] of seeds.entries()) {
      expect(await answer(`"user":"seed","\\u0073eed" : ${seed} `)).toBe(texts[i]);
      expect(await answer(`"seed":9007199254740994,"logit_bias":{},"seed":${seed}`)).toBe(texts[i]);
    }
    for (const seed of ["9223372036854775808", "-9223372036854775809", "1e16", "9007199254740993.0", '"1"'])
      expect(await answer(`"seed":${seed}`)).toBe("seed");
    expect(await answer(`"seed":9007199254740993,"seed":1e17`)).toBe("seed");
  });

  it("W26 W29: logit_bias and top_k 1", async () => {
    const greedy = (await post({ return_token_ids: true })).body.choices[0].token_ids;
    const without = await post({ return_token_ids: true, logit_bias: { [greedy[0]]: -100 } });
    expect(without.body.choices[0].token_ids).not.toContain(greedy[0]);
    expect(
      (await post({ return_token_ids: true, temperature: 1, top_k: 1 })).body.choices[0].token_ids,
    ).toEqual(greedy);
  });

  it("W15 W27: max_tokens 0, and a context that is full", async () => {
    expect((await post({ max_tokens: 0 })).body.choices[0]).toMatchObject({
      text: "",
      finish_reason: "length",
    });
    const full = await post({ prompt: new Array(120).fill(5), max_tokens: 9 });
    expect(full.status).toBe(400);
    expect(full.body.error).toMatchObject({ param: "prompt", code: "context_length_exceeded" });
    expect(full.body.error.message).toMatch(/128 tokens.*129.*120.*9/);
    expect((await post({ prompt: new Array(120).fill(5), max_tokens: 8 })).status).toBe(200);
    expect((await post({ prompt: "a".repeat(20_000) })).body.error.code).toBe("context_length_exceeded");
  });

  it("a text that the tokenizer reads as a token past the model's vocabulary", async () => {
    const small = await startServer({ vocabSize: server.tokenizer.vocabSize - 1 });
    const last = server.tokenizer.decode([server.tokenizer.vocabSize - 1]);
    const { status, body } = await send(`${small.url}/v1/completions`, { json: { ...base, prompt: last } });
    expect(status).toBe(400);
    expect(body.error).toMatchObject({ param: "prompt", type: "invalid_request_error" });
    expect(body.error.message).toContain(`token ${server.tokenizer.vocabSize - 1}`);
    await small.server.close();
  });

  it("W31 W37: prompts in all four forms, choices in order", async () => {
    const texts = ["once upon", "the dog", "a time"];
    const ids = await Promise.all(texts.map((text) => server.tokenizer.encode(text)));
    const single = await Promise.all(
      texts.map(async (prompt) => (await post({ prompt })).body.choices[0].text),
    );
    const list = (body: { choices: { text: string; index: number }[] }) =>
      body.choices.map(({ text, index }) => `${index}${text}`);
    const want = single.map((text, i) => `${i}${text}`);
    expect(list((await post({ prompt: texts })).body)).toEqual(want);
    expect(list((await post({ prompt: ids })).body)).toEqual(want);
    expect((await post({ prompt: ids[1] })).body.choices[0].text).toBe(single[1]);
    const chunks = await chunksOf({ prompt: texts });
    expect(texts.map((_, i) => `${i}${textOf(chunks, i)}`)).toEqual(want);
    const twice = (await post({ prompt: texts, n: 2 })).body;
    expect(list(twice)).toEqual(single.flatMap((text, i) => [`${2 * i}${text}`, `${2 * i + 1}${text}`]));
  });

  it.each([
    ["missing prompt", { prompt: null }, "prompt"],
    ["empty prompt", { prompt: "" }, "prompt"],
    ["empty list", { prompt: [] }, "prompt"],
    ["list of an empty string", { prompt: [""] }, "prompt"],
    ["list of an empty list", { prompt: [[]] }, "prompt"],
    ["mixed list", { prompt: ["a", 1] }, "prompt"],
    ["nested too deep", { prompt: [[[1]]] }, "prompt"],
    ["object", { prompt: {} }, "prompt"],
    ["negative id", { prompt: [-1] }, "prompt"],
    ["id out of range", { prompt: [100000] }, "prompt"],
    ["fractional id", { prompt: [1.5] }, "prompt"],
    ["too many prompts", { prompt: new Array(257).fill("a") }, "prompt"],
    ["too many sequences", { prompt: ["a", "b", "c"], n: 128 }, "n"],
    ["n", { n: 129 }, "n"],
    ["n of 0", { n: 0 }, "n"],
    ["best_of below n", { n: 3, best_of: 2 }, "best_of"],
    ["best_of in a stream", { best_of: 2, stream: true }, "best_of"],
    ["stream_options without stream", { stream_options: { include_usage: true } }, "stream_options"],
    ["temperature", { temperature: 3 }, "temperature"],
    ["temperature type", { temperature: "hot" }, "temperature"],
    ["top_p", { top_p: 0 }, "top_p"],
    ["max_tokens", { max_tokens: -1 }, "max_tokens"],
    ["min above max", { max_tokens: 2, min_tokens: 3 }, "min_tokens"],
    ["seed", { seed: 1.5 }, "seed"],
    ["stops", { stop: new Array(17).fill("x") }, "stop"],
    ["stop of 257", { stop: "x".repeat(257) }, "stop"],
    ["empty stop", { stop: "" }, "stop"],
    ["logit_bias id", { logit_bias: { "99999": 1 } }, "logit_bias.99999"],
    ["logit_bias value", { logit_bias: { "5": 200 } }, "logit_bias.5"],
    [
      "no token left",
      { min_tokens: 1, stop_token_ids: [...new Array(fakeTokenizer().vocabSize).keys()] },
      "stop_token_ids",
    ],
    ["stop token", { stop_token_ids: [99999] }, "stop_token_ids"],
    ["stream type", { stream: "yes" }, "stream"],
    ["suffix", { suffix: "end" }, "suffix"],
    ["model type", { model: 5 }, "model"],
  ])("W14 W20 W32-W34: %s is refused before the engine", async (_name, json, param) => {
    const steps = server.runner.steps;
    const { status, body } = await post(json);
    expect(status).toBe(400);
    expect(body.error).toMatchObject({ type: "invalid_request_error", param });
    expect(server.runner.steps).toBe(steps);
  });

  it("W20: an explicit null is the default", async () => {
    const fields = [
      "max_tokens",
      "top_p",
      "n",
      "best_of",
      "stream",
      "logprobs",
      "echo",
      "stop",
      "seed",
      "suffix",
      "user",
    ];
    const nulls = Object.fromEntries(fields.map((field) => [field, null]));
    expect((await post(nulls)).body.choices).toEqual((await post({})).body.choices);
  });

  it("unknown model: 404", async () => {
    const { status, body } = await post({ model: "gpt-none" });
    expect(status).toBe(404);
    expect(body.error).toMatchObject({
      type: "invalid_request_error",
      param: "model",
      code: "model_not_found",
    });
  });
});

describe("the official client", () => {
  it("completes and streams", async () => {
    const whole = await server.client.completions.create({ ...base, max_tokens: 12 });
    const stream = await server.client.completions.create({ ...base, max_tokens: 12, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0].text;
    expect(text).toBe(whole.choices[0].text);
    expect(whole._request_id).toBeTruthy();
  });

  it("W54: understands our errors", async () => {
    const wrong = server.client.completions.create({ ...base, model: "nope" });
    await expect(wrong).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
      type: "invalid_request_error",
    });
    await expect(server.client.completions.create({ ...base, temperature: 9 })).rejects.toMatchObject({
      status: 400,
      param: "temperature",
      requestID: expect.any(String),
    });
  });

  it("W45: lists models", async () => {
    const { data } = await server.client.models.list();
    expect(data.map(({ id, object }) => [id, object])).toEqual([[MODEL, "model"]]);
    expect((await server.client.models.retrieve(MODEL)).id).toBe(MODEL);
    expect((await send(`${server.url}/v1/models/${MODEL}`)).body.id).toBe(MODEL);
    await expect(server.client.models.retrieve("other")).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
    });
  });

  it("W25: gets 32 concurrent streams that equal the same prompts one at a time", async () => {
    const ask = (i: number) => ({
      model: MODEL,
      prompt: `the dog ${i} was ${"happy ".repeat(i % 7)}`,
      max_tokens: 24,
      temperature: i % 2,
      seed: i,
    });
    const streamed = async (i: number) => {
      let text = "";
      for await (const chunk of await server.client.completions.create({ ...ask(i), stream: true })) {
        text += chunk.choices[0].text;
      }
      return text;
    };
    const numbers = Array.from({ length: 32 }, (_, i) => i);
    const together = await Promise.all(numbers.map(streamed));
    const largest = server.runner.largestStep;
    const alone: string[] = [];
    for (const i of numbers) alone.push((await server.client.completions.create(ask(i))).choices[0].text);
    expect(together).toEqual(alone);
    expect(new Set(together).size).toBe(32);
    expect(largest).toBeGreaterThan(32);
  });
});
