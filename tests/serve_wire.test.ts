import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { IDLE, idle, raw, send, startServer, type TestServer, until } from "./serve_fake.ts";

/**
 * The matrices and cases of SGLang's and vLLM's suites for completions (test_openai_server.py, test_completion.py), in our
 * words, and lines of the wire's checklist that have no place elsewhere.
 */
const MODEL = "tiny/fake";
let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterEach(() => until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE)));
afterAll(() => server.server.close());

const base = { model: MODEL, prompt: "once upon a time", temperature: 0, max_tokens: 8 };
const post = (fields: object, to = server) =>
  send(`${to.url}/v1/completions`, { json: { ...base, ...fields } });

interface Choice {
  index: number;
  text: string;
  finish_reason: string | null;
  logprobs: {
    tokens: string[];
    token_logprobs: (number | null)[];
    top_logprobs: (Record<string, number> | null)[];
    text_offset: number[];
  } | null;
}

async function chunksOf(fields: object): Promise<{ choices: Choice[]; usage?: Record<string, number> }[]> {
  const { text } = await post({ ...fields, stream: true });
  const events = text.split("\n\n").filter((event) => event !== "" && event !== "data: [DONE]");
  return events.map((event) => JSON.parse(event.slice("data: ".length)));
}

const texts = ["the dog was happy", "once upon a time there"];

describe("SGLang's matrix", () => {
  const cases = [false, true].flatMap((echo) =>
    [null, 5].flatMap((logprobs) =>
      [false, true].flatMap((list) =>
        [1, 2].flatMap((n) => [false, true].map((ids) => ({ echo, logprobs, list, n, ids }))),
      ),
    ),
  );

  it.each(cases)(
    "W3 W22 W31 W37: echo $echo, logprobs $logprobs, list $list, n $n, ids $ids",
    async ({ echo, logprobs, list, n, ids }) => {
      const tokens = await Promise.all(texts.map((text) => server.tokenizer.encode(text)));
      const counted = list ? tokens : tokens.slice(0, 1);
      const given: unknown[] = ids ? tokens : texts;
      const fields = {
        prompt: list ? given : given[0],
        echo,
        logprobs,
        n,
        temperature: 1,
        seed: 9,
        ignore_eos: true,
      };
      const { body } = await post(fields);
      const choices: Choice[] = body.choices;
      expect(choices.map(({ index }) => index)).toEqual([...new Array(counted.length * n).keys()]);
      const prompt_tokens = counted.flat().length;
      const completion_tokens = 8 * n * counted.length;
      expect(body.usage).toMatchObject({
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
      });
      for (const { index, text, logprobs: scores } of choices) {
        const i = Math.floor(index / n);
        expect(text.startsWith(texts[i])).toBe(echo);
        if (scores === null) {
          expect(logprobs).toBeNull();
          continue;
        }
        const count = 8 + (echo ? counted[i].length : 0);
        for (const column of Object.values(scores)) expect(column).toHaveLength(count);
        expect(scores.token_logprobs.filter((value) => value === null)).toHaveLength(echo ? 1 : 0);
        expect(scores.top_logprobs[0] === null).toBe(echo);
        for (const top of scores.top_logprobs.slice(1)) {
          expect(Object.keys(top!).length).toBeGreaterThanOrEqual(Math.min(logprobs!, 1));
          expect(Object.keys(top!).length).toBeLessThanOrEqual(logprobs! + 1);
        }
        expect(scores.text_offset[0]).toBe(0);
        expect(scores.text_offset).toEqual([...scores.text_offset].sort((a, b) => a - b));
      }
      // Tokens and text say the same prompt, and a stream the same answer.
      const other = { ...fields, prompt: list ? (ids ? texts : tokens) : (ids ? texts : tokens)[0] };
      expect((await post(other)).body.choices).toEqual(choices);
      const chunks = await chunksOf({ ...fields, stream_options: { include_usage: true } });
      for (const { index, text, logprobs: scores, finish_reason } of choices) {
        const own = chunks.flatMap((chunk) => chunk.choices.filter((choice) => choice.index === index));
        expect(own.map((choice) => choice.text).join("")).toBe(text);
        expect(own.at(-1)!.finish_reason).toBe(finish_reason);
        expect(own.flatMap((choice) => choice.logprobs?.tokens ?? [])).toEqual(scores?.tokens ?? []);
        expect(own.flatMap((choice) => choice.logprobs?.token_logprobs ?? [])).toEqual(
          scores?.token_logprobs ?? [],
        );
      }
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens, completion_tokens } });
    },
  );
});

describe("vLLM's cases", () => {
  it("W21: logprobs null, 0, 5; more is refused, streaming or not", async () => {
    expect((await post({ logprobs: null })).body.choices[0].logprobs).toBeNull();
    const none = (await post({ logprobs: 0 })).body.choices[0].logprobs;
    expect(none.top_logprobs.every((top: object) => Object.keys(top).length === 1)).toBe(true);
    const { top_logprobs } = (await post({ logprobs: 5, temperature: 2, seed: 1 })).body.choices[0].logprobs;
    const sizes = top_logprobs.map((top: object) => Object.keys(top).length);
    expect(sizes.every((size: number) => size === 5 || size === 6)).toBe(true);
    for (const stream of [false, true]) {
      const { status, body } = await post({ logprobs: 21, stream });
      expect([status, body.error.param]).toEqual([400, "logprobs"]);
    }
  });

  it("W25: n answers under one seed differ, with and without a stream", async () => {
    const fields = { temperature: 0.95, n: 3, seed: 42, max_tokens: 10, ignore_eos: true };
    const whole: Choice[] = (await post(fields)).body.choices;
    expect(new Set(whole.map(({ text }) => text)).size).toBe(3);
    const joined = ["", "", ""];
    for (const { choices } of await chunksOf(fields))
      for (const { index, text } of choices) joined[index] += text;
    expect(joined).toEqual(whole.map(({ text }) => text));
  });

  it("W26: a bias of 100 makes the token, -100 forbids it, whatever the likelihood", async () => {
    const fields = { return_token_ids: true, ignore_eos: true };
    for (const id of [7, 42, 100]) {
      const forced = (await post({ ...fields, logit_bias: { [id]: 100 } })).body.choices[0].token_ids;
      expect(forced).toEqual(new Array(8).fill(id));
      const free = (await post({ ...fields, temperature: 2, seed: id, logit_bias: { [id]: -100 } })).body
        .choices[0];
      expect(free.token_ids).not.toContain(id);
    }
  });

  it("W22: text_offset is where each token begins, in the echoed prompt too", async () => {
    for (const echo of [false, true]) {
      const { text, logprobs } = (await post({ echo, logprobs: 1, max_tokens: 12, ignore_eos: true })).body
        .choices[0] as Choice;
      logprobs!.tokens.forEach((token, i) => {
        // A character that never became whole is shown before the next token.
        const shown = text.slice(logprobs!.text_offset[i]).replace(/^\uFFFD+/, "");
        if (!/^(bytes:|<)/.test(token)) expect(shown.startsWith(token)).toBe(true);
      });
      if (!echo) expect(logprobs!.text_offset[0]).toBe(0);
    }
  });

  it("W23: echo with max_tokens 0 returns the scored prompt and no more, as text or ids", async () => {
    const ids = await server.tokenizer.encode(base.prompt);
    for (const prompt of [base.prompt, ids]) {
      const { body } = await post({ prompt, echo: true, max_tokens: 0, logprobs: 1 });
      expect(body.usage.completion_tokens).toBe(0);
      expect(body.choices[0]).toMatchObject({ text: base.prompt, finish_reason: "length" });
      expect(body.choices[0].logprobs.token_logprobs).toHaveLength(ids.length);
    }
  });

  it("W35: bodies that are JSON but no objects are 400 on every route", async () => {
    for (const path of [
      "/v1/completions",
      "/v1/chat/completions",
      "/v1/responses",
      "/tokenize",
      "/detokenize",
    ]) {
      for (const body of ["[]", '"x"', "1", "null", "true"]) {
        const headers = { "content-type": "application/json" };
        const { status, body: answer } = await send(server.url + path, { method: "POST", headers, body });
        expect([path, body, status, answer.error.type]).toEqual([path, body, 400, "invalid_request_error"]);
      }
    }
  });

  it("W29: top_k -1, 0 and the whole vocabulary are off; equally likely tokens: the lowest id", async () => {
    const fields = { temperature: 1, seed: 3, max_tokens: 16, ignore_eos: true };
    const { choices } = (await post(fields)).body;
    for (const top_k of [-1, 0, server.tokenizer.vocabSize, 1e6]) {
      expect((await post({ ...fields, top_k })).body.choices).toEqual(choices);
    }
    expect((await post({ ...fields, min_p: 0 })).body.choices).toEqual(choices);
    const tied = { logit_bias: { 9: 100, 70: 100, 8: -100 }, max_tokens: 1, return_token_ids: true };
    const likeliest = (await post({ ...tied, logprobs: 5 })).body.choices[0];
    expect([9, 70]).toContain(likeliest.token_ids[0]);
    expect((await post({ ...fields, temperature: 1e-6 })).body.choices).toEqual(
      (await post({ ...fields, temperature: 0 })).body.choices,
    );
    for (const [field, value] of [
      ["top_k", -2],
      ["top_k", 1.5],
      ["min_p", 1.1],
      ["min_p", -0.1],
    ] as const) {
      expect((await post({ [field]: value })).body.error.param).toBe(field);
    }
  });

  it("W28: a combination that cannot be had is 400, with its field", async () => {
    const refused: [object, string][] = [
      [{ min_tokens: 9, max_tokens: 8 }, "min_tokens"],
      [{ n: 2, best_of: 1 }, "best_of"],
      [{ stream: true, best_of: 3 }, "best_of"],
      [{ stream_options: { include_usage: true } }, "stream_options"],
      [{ stop_token_ids: [1e6] }, "stop_token_ids"],
      [{ truncate_prompt_tokens: -2 }, "truncate_prompt_tokens"],
      [{ stream: true, prompt_logprobs: 1 }, "prompt_logprobs"],
    ];
    for (const [fields, param] of refused) {
      const { status, body } = await post(fields);
      expect([status, body.error.param]).toEqual([400, param]);
    }
  });
});

describe("the rest of the checklist", () => {
  it("W4: a prompt asked again says how much of it was kept, on a fresh server none", async () => {
    const fresh = await startServer({ blockSize: 4 });
    const prompt = Array.from({ length: 21 }, (_, i) => i + 40);
    const cached = async () => (await post({ prompt }, fresh)).body.usage.prompt_tokens_details.cached_tokens;
    expect(await cached()).toBe(0);
    expect(await cached()).toBe(Math.floor((21 - 1) / 4) * 4);
    await fresh.server.close();
  });

  it("W16: a character that comes in parts is sent whole", async () => {
    const said = "é😀 日本 ａ́ z";
    server.runner.says = (await server.tokenizer.encodeUpTo(1000, said, { addSpecialTokens: false })).ids;
    const chunks = await chunksOf({ max_tokens: 60 });
    server.runner.says = null;
    const pieces = chunks.flatMap(({ choices }) => choices.map(({ text }) => text));
    expect(pieces.join("")).toBe(said);
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces.some((piece) => /\uFFFD|^[\uDC00-\uDFFF]|[\uD800-\uDBFF]$/.test(piece))).toBe(false);
  });

  it("W6: every JSON answer says so", async () => {
    for (const path of ["/v1/models", "/health", "/version", "/nowhere", "/openapi.json"]) {
      expect((await send(server.url + path)).headers.get("content-type")).toContain("application/json");
    }
  });

  it("W54: nothing answers without the envelope, whatever is wrong", async () => {
    const status = async (path: string, init: RequestInit) => (await send(server.url + path, init)).status;
    const json = { "content-type": "application/json" };
    expect(await status("/nowhere", {})).toBe(404);
    expect(await status("/v1/completions", {})).toBe(405);
    expect(await status("/v1/completions", { method: "POST", headers: json, body: "{" })).toBe(400);
    expect(await status("/v1/completions", { method: "POST", headers: json, body: "x".repeat(5e6) })).toBe(
      413,
    );
    expect(await status("/v1/completions", { method: "POST", body: "{}" })).toBe(415);
    const long = await raw(
      server.url,
      `GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ${"x".repeat(20_000)}\r\n\r\n`,
    );
    expect(long).toMatch(/^HTTP\/1.1 431 [\s\S]*"error":\{"message":/);
    server.runner.failItem = () => "broken";
    expect((await post({})).status).toBe(500);
    server.runner.failItem = () => undefined;
  });

  it("W55 F3: what waits too long for its first step is told so, well before clients give up", async () => {
    const slow = await startServer({ maxSeqs: 1, limits: { queueWaitMs: 50 } });
    slow.runner.before = () => new Promise((resolve) => setTimeout(resolve, 20));
    const first = post({ max_tokens: 60, ignore_eos: true }, slow);
    await until(() => slow.engine.stats().running === 1);
    const { status, headers, body } = await post({}, slow);
    expect([status, headers.get("retry-after"), body.error.code]).toEqual([503, "5", "queue_timeout"]);
    expect((await first).status).toBe(200);
    await slow.server.close();
  });
});
