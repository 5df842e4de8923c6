import { Ollama, type Tool } from "ollama";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  fakeChatTokenizer,
  fakeTokenizer,
  IDLE,
  idle,
  send,
  startServer,
  type TestServer,
  until,
} from "./serve_fake.ts";

/** The client that people use, which checks what it receives, and the bytes where it does not look. */
const MODEL = "tiny/fake";
let server: TestServer;
let client: Ollama;
beforeAll(async () => {
  server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 512 });
  client = new Ollama({ host: server.url });
});
afterEach(async () => {
  server.runner.says = null;
  await until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
});
afterAll(() => server.server.close());

const greedy = { temperature: 0, num_predict: 12 };
const prompt = "once upon a time";
const messages = [{ role: "user", content: prompt }];
const say = async (text: string) => {
  server.runner.says = (await server.tokenizer.encodeUpTo(1e4, text, { addSpecialTokens: false })).ids;
};

async function post(path: string, json: object, headers: Record<string, string> = {}, to = server.url) {
  const response = await fetch(to + path, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(json),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text };
}

async function refusalOf(path: string, json: object): Promise<[number, string]> {
  const { status, text } = await post(path, json);
  const body = JSON.parse(text);
  expect(Object.keys(body)).toEqual(["error"]);
  return [status, body.error];
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** The same by OpenAI's routes. */
const viaOpenAi = async (fields: object = {}) => {
  const json = { model: MODEL, messages, temperature: 0, max_tokens: 12, ...fields };
  return (await send(`${server.url}/v1/chat/completions`, { json })).body;
};
/** The same without a chat template. */
const completion = (url: string) =>
  send(`${url}/v1/completions`, { json: { model: MODEL, prompt, temperature: 0, max_tokens: 12 } });

describe("/api/generate", () => {
  it("is a turn of a chat: in one piece and as a stream what the chat route answers", async () => {
    const expected = await viaOpenAi();
    const whole = await client.generate({ model: MODEL, prompt, options: greedy });
    const said = expected.choices[0].message.content;
    const counts = {
      prompt_eval_count: expected.usage.prompt_tokens,
      eval_count: expected.usage.completion_tokens,
    };
    expect(whole).toMatchObject({
      model: MODEL,
      response: said,
      done: true,
      done_reason: "length",
      ...counts,
    });
    expect(Date.parse(String(whole.created_at))).toBeGreaterThan(Date.now() - 60_000);
    const parts = await all(await client.generate({ model: MODEL, prompt, options: greedy, stream: true }));
    expect(parts.map(({ response }) => response).join("")).toBe(said);
    expect(parts.map(({ done }) => done)).toEqual(parts.map((_, i) => i === parts.length - 1));
    expect(parts.length).toBeGreaterThan(3);
    expect(parts.at(-1)).toMatchObject({ done_reason: "length", response: "", ...counts });
  });

  it("streams lines of JSON unless it is told not to", async () => {
    const { headers, text } = await post("/api/generate", { model: MODEL, prompt, options: greedy });
    expect(headers.get("content-type")).toBe("application/x-ndjson");
    expect(text.endsWith("}\n")).toBe(true);
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.length).toBeGreaterThan(3);
    const one = await post("/api/generate", { model: MODEL, prompt, options: greedy, stream: false });
    expect(one.headers.get("content-type")).toBe("application/json; charset=utf-8");
    expect(JSON.parse(one.text).response).toBe(lines.map(({ response }) => response).join(""));
  });

  it("gives times in nanoseconds that add up", async () => {
    server.runner.before = () => new Promise((resolve) => setTimeout(resolve, 3));
    const start = performance.now();
    const answer = await client.generate({ model: MODEL, prompt, options: greedy });
    const most = (performance.now() - start) * 1e6;
    server.runner.before = () => {};
    const { total_duration, load_duration, prompt_eval_duration, eval_duration } = answer;
    expect([total_duration, prompt_eval_duration, eval_duration].every(Number.isInteger)).toBe(true);
    expect(load_duration).toBe(0);
    // A timer may go off a little early.
    expect(prompt_eval_duration).toBeGreaterThan(2e6);
    expect(eval_duration).toBeGreaterThan(11 * 2e6);
    expect(prompt_eval_duration + eval_duration).toBeLessThanOrEqual(total_duration);
    expect(total_duration).toBeLessThan(most);
  });

  it("reads a system message, and a raw prompt as it is", async () => {
    const system = "be brief";
    const conversation = [{ role: "system", content: system }, ...messages];
    const expected = (await viaOpenAi({ messages: conversation })).choices[0].message.content;
    expect((await client.generate({ model: MODEL, prompt, system, options: greedy })).response).toBe(
      expected,
    );
    const { body } = await completion(server.url);
    const raw = await client.generate({ model: MODEL, prompt, raw: true, options: greedy });
    expect(raw.response).toBe(body.choices[0].text);
    expect(raw.prompt_eval_count).toBe(body.usage.prompt_tokens);
  });

  it("passes each option on, and has Ollama's defaults", async () => {
    const options = { seed: 0, temperature: 1, top_k: 90, top_p: 0.98, min_p: 0.001, num_predict: 200 };
    const penalties = { presence_penalty: 0.4, frequency_penalty: 0.3 };
    const own = { ...options, ...penalties, repeat_penalty: 1.2 };
    // One that is long enough for penalties to tell.
    let answer = await client.generate({ model: MODEL, prompt, options: own });
    while (answer.done_reason !== "length") {
      options.seed = ++own.seed;
      answer = await client.generate({ model: MODEL, prompt, options: own });
    }
    const response = answer.response!;
    const same = await viaOpenAi({
      ...options,
      ...penalties,
      max_tokens: 200,
      num_predict: undefined,
      repetition_penalty: 1.2,
    });
    expect(response).toBe(same.choices[0].message.content);
    const others = {
      seed: own.seed + 1,
      top_k: 1,
      repeat_penalty: 4,
      presence_penalty: 2,
      frequency_penalty: 2,
    };
    for (const [name, value] of Object.entries(others)) {
      const other = await client.generate({ model: MODEL, prompt, options: { ...own, [name]: value } });
      expect([name, other.response === response]).toEqual([name, false]);
    }
    const defaults = await viaOpenAi({ temperature: 0.8, top_k: 40, top_p: 0.9, seed: 3 });
    const bare = await client.generate({ model: MODEL, prompt, options: { seed: 3, num_predict: 12 } });
    expect(bare.response).toBe(defaults.choices[0].message.content);
    const stop = response.slice(3, 5);
    const stopped = await client.generate({ model: MODEL, prompt, options: { ...own, stop: [stop] } });
    expect(stopped).toMatchObject({
      response: response.slice(0, response.indexOf(stop)),
      done_reason: "stop",
    });
  });

  it("goes on to the end of the context without num_predict, and says so", async () => {
    await say("the dog was happy and ".repeat(200));
    const answer = await client.generate({ model: MODEL, prompt, options: { temperature: 0 } });
    expect(answer.done_reason).toBe("length");
    expect(answer.prompt_eval_count + answer.eval_count).toBe(512);
  });

  it("answers in JSON, and by a schema", async () => {
    const schema = { type: "object", properties: { age: { type: "integer" } }, required: ["age"] };
    const options = { temperature: 1, seed: 1, num_predict: 300 };
    const bySchema = await client.generate({ model: MODEL, prompt, format: schema, options });
    expect(bySchema.done_reason).toBe("stop");
    expect(JSON.parse(bySchema.response!)).toEqual({ age: expect.any(Number) });
    await say('{"a": [1, 2]} and more');
    const json = await client.generate({ model: MODEL, prompt, format: "json", options });
    expect(JSON.parse(json.response!)).toBeTypeOf("object");
    const odd = { model: MODEL, prompt, format: { type: "nothing" } };
    expect((await refusalOf("/api/generate", odd))[0]).toBe(400);
  });

  it("gives log probabilities", async () => {
    const fields = { model: MODEL, prompt, options: greedy, logprobs: true, top_logprobs: 2 };
    const { logprobs, response } = await client.generate(fields);
    const bytes = logprobs!.flatMap((one) => (one as unknown as { bytes: number[] }).bytes);
    expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(response);
    for (const { logprob, top_logprobs } of logprobs!) {
      expect(top_logprobs!.length).toBe(2);
      expect(top_logprobs![0]!.logprob).toBe(logprob);
    }
    const parts = await all(await client.generate({ ...fields, stream: true }));
    expect(parts.flatMap((part) => part.logprobs ?? [])).toEqual(logprobs);
  });

  it("says that a model is there when there is no prompt", async () => {
    expect(await client.generate({ model: MODEL, prompt: "" })).toMatchObject({
      done: true,
      done_reason: "load",
      response: "",
    });
    const parts = await all(await client.chat({ model: MODEL, messages: [], stream: true }));
    expect(parts).toMatchObject([{ done: true, done_reason: "load", message: { content: "" } }]);
  });
});

describe("/api/chat", () => {
  it("answers as the chat route does, in one piece and as a stream", async () => {
    const expected = (await viaOpenAi()).choices[0].message.content;
    const whole = await client.chat({ model: MODEL, messages, options: greedy });
    expect(whole.message).toEqual({ role: "assistant", content: expected });
    const parts = await all(await client.chat({ model: MODEL, messages, options: greedy, stream: true }));
    expect(parts.map(({ message }) => message.content).join("")).toBe(expected);
    expect(parts.at(-1)).toMatchObject({ done: true, done_reason: "length", eval_count: 12 });
  });

  const weather: Tool = {
    type: "function",
    function: {
      name: "weather",
      description: "Today's weather.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  };
  const tools = [weather];
  const calls = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>';

  it("calls tools with objects, in one piece and as a stream, and reads what they said", async () => {
    await say(`Let me see.${calls}`);
    server.runner.says = [...server.runner.says!, server.tokenizer.eosIds[0]!];
    const tool_calls = [{ function: { name: "weather", arguments: { city: "Rome" } } }];
    const whole = await client.chat({ model: MODEL, messages, tools, options: { temperature: 0 } });
    expect(whole.message).toEqual({ role: "assistant", content: "Let me see.", tool_calls });
    expect(whole.done_reason).toBe("stop");
    const parts = await all(
      await client.chat({ model: MODEL, messages, tools, options: { temperature: 0 }, stream: true }),
    );
    expect(parts.flatMap(({ message }) => message.tool_calls ?? [])).toEqual(tool_calls);
    expect(parts.map(({ message }) => message.content).join("")).toBe("Let me see.");
    const answered = [
      ...messages,
      { role: "assistant", content: "", tool_calls },
      { role: "tool", tool_name: "weather", content: "sunny" },
    ];
    const alike = [
      ...messages,
      {
        role: "assistant",
        content: null,
        tool_calls: [
          { id: "1", type: "function", function: { name: "weather", arguments: '{"city": "Rome"}' } },
        ],
      },
      { role: "tool", name: "weather", tool_call_id: "1", content: "sunny" },
    ];
    server.runner.says = null;
    const expected = await viaOpenAi({ messages: alike });
    const next = await client.chat({ model: MODEL, messages: answered, options: greedy });
    expect(next.message.content).toBe(expected.choices[0].message.content);
    expect(next.prompt_eval_count).toBe(expected.usage.prompt_tokens);
  });

  it("loses nothing of a call that was cut off, wherever", async () => {
    await say(calls);
    const written = server.runner.says!.length;
    for (let num_predict = 1; num_predict < written; num_predict += 3) {
      const options = { temperature: 0, num_predict };
      const { message, done_reason } = await client.chat({ model: MODEL, messages, tools, options });
      expect(done_reason).toBe("length");
      const told = message.content + JSON.stringify(message.tool_calls ?? "");
      const said = server.tokenizer.decode(server.runner.says!.slice(0, num_predict));
      for (const word of ["weather", "Rome"])
        if (said.includes(word))
          expect([num_predict, told]).toEqual([num_predict, expect.stringContaining(word)]);
    }
  });

  it("a client that leaves ends its request", async () => {
    server.runner.before = () => new Promise((resolve) => setTimeout(resolve, 2));
    const before = server.engine.stats().finished.abort;
    const stream = await client.chat({ model: MODEL, messages, options: { temperature: 0 }, stream: true });
    const left = (async () => {
      for await (const _ of stream) stream.abort();
    })();
    await expect(left).rejects.toThrow(/abort/i);
    await until(() => server.engine.stats().finished.abort === before + 1);
    server.runner.before = () => {};
  });

  it("an error in the middle of a stream is a line, at which the client throws", async () => {
    let steps = 0;
    server.runner.failItem = () => (++steps > 3 ? "broken" : undefined);
    const failing = client.chat({ model: MODEL, messages, options: greedy, stream: true }).then(all);
    await expect(failing).rejects.toThrow("the model failed on this request");
    server.runner.failItem = () => "broken";
    await expect(client.chat({ model: MODEL, messages })).rejects.toMatchObject({ status_code: 500 });
    server.runner.failItem = () => undefined;
  });
});

describe("what is refused", () => {
  const chat = { model: MODEL, messages };
  it.each<[string, string, object, number, RegExp]>([
    ["an unknown model", "/api/chat", { ...chat, model: "none" }, 404, /`none` does not exist/],
    ["another tag", "/api/chat", { ...chat, model: `${MODEL}:7b` }, 404, /does not exist/],
    [
      "an image",
      "/api/chat",
      { ...chat, messages: [{ role: "user", content: "a", images: ["AA=="] }] },
      400,
      /text only/,
    ],
    [
      "images of a prompt",
      "/api/generate",
      { model: MODEL, prompt, images: ["AA=="] },
      400,
      /images is not supported/,
    ],
    [
      "a template",
      "/api/generate",
      { model: MODEL, prompt, template: "{{ .Prompt }}" },
      400,
      /template is not supported/,
    ],
    ["a suffix", "/api/generate", { model: MODEL, prompt, suffix: "end" }, 400, /suffix is not supported/],
    [
      "an old context",
      "/api/generate",
      { model: MODEL, prompt, context: [1, 2] },
      400,
      /context is not supported/,
    ],
    ["raw with system", "/api/generate", { model: MODEL, prompt, raw: true, system: "x" }, 400, /system/],
    ["thinking", "/api/chat", { ...chat, think: true }, 400, /think: is not supported/],
    [
      "a context that is too large",
      "/api/chat",
      { ...chat, options: { num_ctx: 4096 } },
      400,
      /num_ctx is 4096.*512 tokens/,
    ],
    [
      "mirostat",
      "/api/chat",
      { ...chat, options: { mirostat: 1 } },
      400,
      /options.mirostat is not supported/,
    ],
    ["typical_p", "/api/chat", { ...chat, options: { typical_p: 0.5 } }, 400, /options.typical_p/],
    [
      "a window of penalties",
      "/api/chat",
      { ...chat, options: { repeat_last_n: 64, repeat_penalty: 1.1 } },
      400,
      /repeat_last_n/,
    ],
    ["a bad temperature", "/api/chat", { ...chat, options: { temperature: 9 } }, 400, /temperature must be/],
    ["an option of another type", "/api/chat", { ...chat, options: { top_k: "x" } }, 400, /options.top_k/],
    ["a long prompt", "/api/generate", { model: MODEL, prompt: "a b ".repeat(600) }, 400, /512 tokens/],
    [
      "a query",
      "/api/chat",
      { model: MODEL, query: "x" },
      400,
      /query is for servers that keep conversations/,
    ],
    ["both forms", "/api/chat", { ...chat, query: "x" }, 422, /two forms/],
    ["no model", "/api/chat", { messages }, 400, /model/],
    ["a writer's vectors", "/api/embed", { model: MODEL, input: "a" }, 400, /writes text/],
    ["an unknown route", "/api/pull", { model: MODEL }, 404, /nothing at POST .*: models come by kiln pull/],
    ["an unknown model's card", "/api/show", { model: "none" }, 404, /does not exist/],
  ])("%s", async (_name, path, json, status, message) => {
    const [got, error] = await refusalOf(path, json);
    expect(got).toBe(status);
    expect(error).toMatch(message);
  });

  it("by the client's own error, and with neutral options not at all", async () => {
    await expect(client.generate({ model: "none", prompt })).rejects.toMatchObject({ status_code: 404 });
    const neutral = {
      num_ctx: 512,
      mirostat: 0,
      typical_p: 1,
      repeat_last_n: 64,
      num_gpu: 1,
      num_thread: 4,
      repeat_penalty: 1,
    };
    const plain = await client.generate({ model: MODEL, prompt, options: greedy });
    const { response } = await client.generate({
      model: MODEL,
      prompt,
      keep_alive: "5m",
      options: { ...greedy, ...neutral },
    });
    expect(response).toBe(plain.response);
    // OpenAI's routes keep their envelope.
    expect((await send(`${server.url}/v1/nothing`, { json: {} })).body.error.code).toBe("not_found");
  });

  it("a system message, by a model without a chat template, which reads a prompt as it is", async () => {
    const plain = await startServer({ tokenizer: fakeTokenizer() });
    const ask = (json: object) =>
      post("/api/generate", { model: MODEL, prompt, stream: false, options: greedy, ...json }, {}, plain.url);
    expect(JSON.parse((await ask({ system: "x" })).text).error).toMatch(/no chat template/);
    const { body } = await completion(plain.url);
    expect(JSON.parse((await ask({})).text).response).toBe(body.choices[0].text);
    await plain.server.close();
  });
});
