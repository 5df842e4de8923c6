import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { fakeChatTokenizer, IDLE, idle, send, startServer, type TestServer, until } from "./serve_fake.ts";

const MODEL = "tiny/fake";
let server: TestServer;
beforeAll(async () => {
  server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 800 });
});
afterEach(async () => {
  server.runner.says = null;
  await until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
});
afterAll(() => server.server.close());

const base = { model: MODEL, input: "once upon a time", temperature: 0, max_output_tokens: 16 };
const post = (fields: object) => send(`${server.url}/v1/responses`, { json: { ...base, ...fields } });

interface Event {
  type: string;
  sequence_number: number;
  delta?: string;
  response?: { status: string; output: unknown[] };
  item?: { id: string };
}

async function eventsOf(fields: object): Promise<Event[]> {
  const { status, headers, text } = await post({ ...fields, stream: true });
  expect([status, headers.get("content-type")?.split(";")[0]]).toEqual([200, "text/event-stream"]);
  const blocks = text.split("\n\n");
  expect(blocks.pop()).toBe("");
  return blocks.map((block) => {
    const [name, data] = block.split("\n");
    const event = JSON.parse(data.slice("data: ".length));
    expect(name).toBe(`event: ${event.type}`);
    return event;
  });
}

/** Without the ids, which are drawn for each answer. */
const withoutIds = (output: unknown) =>
  JSON.parse(JSON.stringify(output), (key, value) => (["id", "call_id"].includes(key) ? "" : value));
const say = async (text: string) => {
  const { ids } = await server.tokenizer.encodeUpTo(1e4, text, { addSpecialTokens: false });
  server.runner.says = ids;
};

const weather = {
  type: "function",
  name: "weather",
  parameters: {
    type: "object",
    properties: { city: { enum: ["Rome", "Oslo"] } },
    required: ["city"],
    additionalProperties: false,
  },
};

describe("responses", () => {
  it("are what chat answers, in another form", async () => {
    const { body } = await post({ instructions: "be kind", ignore_eos: true });
    const messages = [
      { role: "system", content: "be kind" },
      { role: "user", content: base.input },
    ];
    const chat = await send(`${server.url}/v1/chat/completions`, {
      json: { model: MODEL, messages, temperature: 0, max_tokens: 16, ignore_eos: true },
    });
    const { content } = chat.body.choices[0].message;
    expect(body).toMatchObject({
      object: "response",
      status: "incomplete",
      instructions: "be kind",
      store: false,
    });
    expect(body.incomplete_details).toEqual({ reason: "max_output_tokens" });
    expect(body.output).toMatchObject([
      {
        type: "message",
        role: "assistant",
        status: "incomplete",
        content: [{ type: "output_text", text: content, annotations: [] }],
      },
    ]);
    const { prompt_tokens, total_tokens } = chat.body.usage;
    expect(body.usage).toMatchObject({ input_tokens: prompt_tokens, output_tokens: 16, total_tokens });
    await say("well");
    expect((await post({})).body).toMatchObject({ status: "completed", incomplete_details: null });
    await say("");
    expect((await post({})).body.output).toMatchObject([{ content: [{ text: "" }] }]);
  });

  it("stream the official events, numbered, and end with the whole", async () => {
    for (const fields of [{}, { temperature: 1, seed: 3, top_logprobs: 2, max_output_tokens: 40 }]) {
      const { body } = await post(fields);
      const events = await eventsOf(fields);
      expect(events.map(({ sequence_number }) => sequence_number)).toEqual([...events.keys()]);
      const names = events.map(({ type }) => type);
      expect(names.slice(0, 4)).toEqual([
        ...["response.created", "response.in_progress"],
        ...["response.output_item.added", "response.content_part.added"],
      ]);
      expect(names.slice(-4)).toEqual([
        ...["response.output_text.done", "response.content_part.done"],
        ...["response.output_item.done", `response.${body.status}`],
      ]);
      expect(new Set(names.slice(4, -4))).toEqual(new Set(["response.output_text.delta"]));
      const text = events
        .filter(({ type }) => type.endsWith("text.delta"))
        .map(({ delta }) => delta)
        .join("");
      expect(text).toBe(body.output[0].content[0].text);
      expect(withoutIds(events.at(-1)!.response!.output)).toEqual(withoutIds(body.output));
      expect(events.at(-1)!.response).toMatchObject({ usage: { total_tokens: body.usage.total_tokens } });
    }
  });

  it("calls of functions go out, and come back in with their results", async () => {
    await say('well <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>');
    const fields = { tools: [weather], max_output_tokens: 120 };
    const { body } = await post(fields);
    expect(body.output).toMatchObject([
      { type: "message", content: [{ text: "well" }] },
      {
        type: "function_call",
        call_id: expect.stringMatching(/^call_/),
        name: "weather",
        arguments: '{"city": "Rome"}',
        status: "completed",
      },
    ]);
    const events = await eventsOf(fields);
    expect(withoutIds(events.at(-1)!.response!.output)).toEqual(withoutIds(body.output));
    const args = events.filter(({ type }) => type === "response.function_call_arguments.delta");
    expect(args.map(({ delta }) => delta).join("")).toBe('{"city": "Rome"}');
    server.runner.says = null;
    const input = [
      { role: "user", content: [{ type: "input_text", text: "weather?" }] },
      ...body.output,
      { type: "function_call_output", call_id: body.output[1].call_id, output: "warm" },
    ];
    const again = await post({ input, tools: [weather] });
    expect(again.status).toBe(200);
    const { body: read } = await send(`${server.url}/tokenize`, {
      json: {
        tools: [{ type: "function", function: { name: "weather", parameters: weather.parameters } }],
        messages: [
          { role: "user", content: "weather?" },
          {
            role: "assistant",
            content: "well",
            tool_calls: [
              { id: "a", type: "function", function: { name: "weather", arguments: '{"city": "Rome"}' } },
            ],
          },
          { role: "tool", tool_call_id: "a", content: "warm" },
        ],
      },
    });
    expect(again.body.usage.input_tokens).toBe(read.count);
    const forced = await post({
      ...fields,
      tool_choice: { type: "function", name: "weather" },
      temperature: 1,
    });
    expect(forced.body.output).toMatchObject([{ type: "function_call", name: "weather" }]);
    expect(["Rome", "Oslo"]).toContain(JSON.parse(forced.body.output[0].arguments).city);
  });

  it("text.format binds the answer", async () => {
    const schema = {
      type: "object",
      properties: { fine: { type: "boolean" } },
      required: ["fine"],
      additionalProperties: false,
    };
    const format = { type: "json_schema", name: "answer", schema, strict: true };
    const { body } = await post({ text: { format }, temperature: 1, max_output_tokens: 100 });
    expect(body.status).toBe("completed");
    expect(JSON.parse(body.output[0].content[0].text)).toEqual({ fine: expect.any(Boolean) });
  });

  it.each<[string, object, string]>([
    ["no input", { input: null }, "input"],
    ["an empty input", { input: "" }, "input"],
    ["an empty list", { input: [] }, "input"],
    ["a list of nothing", { input: [5] }, "input.0"],
    [
      "an image",
      { input: [{ role: "user", content: [{ type: "input_image", image_url: "http://127.0.0.1:9/x" }] }] },
      "input.0",
    ],
    ["an item of another kind", { input: [{ type: "web_search_call" }] }, "input.0"],
    [
      "a result without its call",
      { input: [{ type: "function_call_output", call_id: "x", output: "" }] },
      "input.0.call_id",
    ],
    ["storing", { store: true }, "store"],
    ["a stored response", { previous_response_id: "resp_1" }, "previous_response_id"],
    ["a stored conversation", { conversation: "conv_1" }, "conversation"],
    ["the background", { background: true }, "background"],
    ["cutting", { truncation: "auto" }, "truncation"],
    ["max_tokens", { max_tokens: 5 }, "max_tokens"],
    ["messages", { messages: [] as never[], prompt: "x" }, "prompt"],
    ["another tool", { tools: [{ type: "web_search" }] }, "tools.0.type"],
    ["other details", { include: ["file_search_call.results"] }, "include.0"],
    [
      "a form without a schema",
      { text: { format: { type: "json_schema", name: "x" } } },
      "text.format.schema",
    ],
    [
      "a wrong schema",
      { text: { format: { type: "json_schema", name: "x", schema: { type: "oddity" } } } },
      "text.format",
    ],
    ["too much", { input: "a ".repeat(900) }, "input"],
    ["a template that refuses", { input: [{ role: "user", content: "a" }], temperature: 9 }, "temperature"],
  ])("W15: %s is refused, before any event", async (_name, fields, param) => {
    const { steps } = server.runner;
    for (const stream of [false, true]) {
      const { status, body } = await post({ ...fields, stream });
      expect([status, body.error.param]).toEqual([400, param]);
    }
    expect(server.runner.steps).toBe(steps);
  });

  it("W9: a failure within a stream is its last event", async () => {
    let rows = 0;
    server.runner.failItem = () => (++rows === 6 ? "broken" : undefined);
    const events = await eventsOf({ max_output_tokens: 60, ignore_eos: true });
    server.runner.failItem = () => undefined;
    expect(events.at(-1)).toMatchObject({
      type: "response.failed",
      response: { status: "failed", error: { code: "server_error" } },
    });
  });
});
