import { describe, expect, it } from "vitest";
import { Tokenizer } from "../tokenizer/index.ts";
import { fakeChatTokenizer, fakeTokenizer, startServer } from "./serve_fake.ts";
import { fakeChat, of, user } from "./support/fake_chat.ts";

const CONTEXT = 1000;
const chat = fakeChat(CONTEXT);
const { post, chunksOf } = chat;

/** Ids of the prompt as the server rendered it. */
const promptOf = async (fields: object): Promise<number[]> =>
  (await post({ ...fields, max_tokens: 1, return_token_ids: true })).body.prompt_token_ids;
const asText = (ids: readonly number[]) => chat.server.tokenizer.decode(ids, { skipSpecialTokens: false });

describe("tools", () => {
  const weather = {
    type: "function",
    function: {
      name: "weather",
      description: "The weather.",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  };
  const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "a town"}}\n</tool_call>';
  const say = async (text: string) => {
    chat.server.runner.says = await chat.server.tokenizer.encode(text, { addSpecialTokens: false } as never);
  };
  const fields = { tools: [weather], max_tokens: 120 };

  it("W43: a call is a call, in one piece and in a stream, where id and name come once", async () => {
    await say(`well\n${call}`);
    const { message, finish_reason } = (await post(fields)).body.choices[0];
    const args = '{"city": "a town"}';
    expect(finish_reason).toBe("tool_calls");
    expect(message).toMatchObject({
      content: "well",
      tool_calls: [{ type: "function", function: { name: "weather", arguments: args } }],
    });
    const chunks = of(await chunksOf(fields), 0);
    expect(chunks.at(-1)).toMatchObject({ delta: {}, finish_reason: "tool_calls" });
    const pieces = chunks.flatMap(({ delta }) => delta.tool_calls ?? []);
    expect(pieces.length).toBeGreaterThan(3);
    expect(pieces.map(({ function: { arguments: text } }) => text).join("")).toBe(args);
    expect(pieces.filter(({ id }) => id !== undefined)).toHaveLength(1);
    expect(pieces.filter((piece) => piece.function.name !== undefined)).toEqual([pieces[0]]);
    expect(pieces.every(({ index }) => index === 0)).toBe(true);
  });

  it("content is null beside calls, and a cut answer ends with length", async () => {
    await say(call);
    expect((await post(fields)).body.choices[0].message.content).toBeNull();
    const ids = chat.server.runner.says!;
    const cut = (await post({ ...fields, max_tokens: ids.length - 10 })).body.choices[0];
    expect(cut.finish_reason).toBe("length");
    expect(cut.message.tool_calls[0].function.name).toBe("weather");
    // Nor is half a call one that a client should make.
    expect((await post({ ...fields, stop: "own" })).body.choices[0].finish_reason).toBe("stop");
  });

  it("without tools, or with tool_choice none, the text is text, and the model is shown no tools", async () => {
    await say(call);
    for (const choice of [{ max_tokens: 120 }, { ...fields, tool_choice: "none" }]) {
      const { message, finish_reason } = (await post(choice)).body.choices[0];
      expect([message.content, finish_reason]).toEqual([call, "stop"]);
      expect(message).not.toHaveProperty("tool_calls");
    }
    expect(asText(await promptOf({ tools: [weather], tool_choice: "none" }))).not.toContain("weather");
    expect(asText(await promptOf({ tools: [weather] }))).toContain('"name": "weather"');
  });

  it("W43: required and named calls are made, whatever the model would rather say", async () => {
    const city = {
      type: "object",
      $defs: { c: { enum: ["Rome", "Oslo"] } },
      properties: { city: { $ref: "#/$defs/c" } },
      required: ["city"],
      additionalProperties: false,
    };
    const now = {
      type: "object",
      properties: { zone: { type: "boolean" } },
      required: ["zone"],
      additionalProperties: false,
    };
    const tools = [
      { type: "function", function: { name: "weather", parameters: city } },
      { type: "function", function: { name: "time", parameters: now } },
    ];
    const given = new Set<string>();
    for (let seed = 0; seed < 6; seed++) {
      const asked = { tools, temperature: 1, seed, max_tokens: 200 };
      for (const tool_choice of ["required", { type: "function", function: { name: "time" } }] as const) {
        const one = { ...asked, tool_choice, parallel_tool_calls: false };
        const { message, finish_reason } = (await post(one)).body.choices[0];
        expect([finish_reason, message.content, message.tool_calls.length]).toEqual(["tool_calls", null, 1]);
        const { name, arguments: args } = message.tool_calls[0].function;
        if (name === "weather") expect(["Rome", "Oslo"]).toContain(JSON.parse(args).city);
        else expect(JSON.parse(args)).toEqual({ zone: expect.any(Boolean) });
        if (tool_choice !== "required") expect(name).toBe("time");
        given.add(name);
        // What is cut off of a call is no text, wherever.
        if (seed > 0) continue;
        for (let max_tokens = 1; max_tokens < 12; max_tokens++) {
          const cut = (await post({ ...one, max_tokens, parallel_tool_calls: true })).body.choices[0];
          expect([cut.finish_reason, cut.message.content || ""]).toEqual(["length", ""]);
        }
        const pieces = of(await chunksOf(one), 0).flatMap(({ delta }) => delta.tool_calls ?? []);
        expect(pieces.map((piece) => piece.function.arguments).join("")).toBe(args);
        expect(pieces[0].function.name).toBe(name);
      }
    }
    expect(given).toEqual(new Set(["weather", "time"]));
    expect(
      (await post({ tools, tool_choice: { type: "function", function: { name: "other" } } })).body.error
        .param,
    ).toBe("tool_choice");
    const odd = [{ type: "function", function: { name: "odd", parameters: { type: "oddity" } } }];
    expect((await post({ tools: odd, tool_choice: "required" })).body.error.param).toBe("tools");
  });

  it("W42: an answer bound to a schema parses and validates when it stops", async () => {
    const schema = {
      type: "object",
      properties: { kind: { enum: ["a", "b"] }, fine: { type: "boolean" } },
      required: ["kind", "fine"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
    let stops = 0;
    for (let seed = 0; seed < 4; seed++) {
      const { message, finish_reason } = (
        await post({ response_format, seed, temperature: 1, max_tokens: 120 })
      ).body.choices[0];
      if (finish_reason !== "stop") continue;
      stops++;
      expect(JSON.parse(message.content)).toEqual({
        kind: expect.stringMatching(/^[ab]$/),
        fine: expect.any(Boolean),
      });
    }
    expect(stops).toBeGreaterThan(0);
    const { steps } = chat.server.runner;
    const bad = { type: "json_schema", json_schema: { schema: { type: "oddity" } } };
    expect((await post({ response_format: bad })).body.error.param).toBe("response_format");
    expect(chat.server.runner.steps).toBe(steps);
  });

  it("a call and its result are read back, arguments as an object", async () => {
    const messages = [
      user("weather?"),
      {
        role: "assistant",
        content: null,
        tool_calls: [
          { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"a"}' } },
        ],
      },
      { role: "tool", tool_call_id: "call_1", content: "warm" },
    ];
    const text = asText(await promptOf({ messages, tools: [weather] }));
    expect(text).toContain(
      '<tool_call>{"name": "weather", "arguments": {"city": "a"}}</tool_call><|im_end|>\n<|im_start|>tool\nwarm',
    );
  });

  it("a template without tools refuses them", async () => {
    const { json, config } = fakeChatTokenizer();
    const plain = await startServer({
      tokenizer: new Tokenizer(json, {
        tokenizer_config: config,
        chat_template: "{{ messages[0].content }}",
      }),
    });
    expect((await post(fields, plain)).body.error).toMatchObject({ param: "tools" });
    expect((await post({ ...fields, tool_choice: "none" }, plain)).status).toBe(200);
    await plain.server.close();
  });

  it("Mistral's mark is a special token, and is found all the same", async () => {
    const { json, vocabSize } = fakeTokenizer();
    const mark = {
      id: vocabSize,
      content: "[TOOL_CALLS]",
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    };
    const tokenizer = new Tokenizer(
      { ...json, added_tokens: [...(json.added_tokens ?? []), mark] },
      { chat_template: "{{ tools }}[TOOL_CALLS]{{ messages[0].content }}" },
    );
    const mistral = await startServer({ tokenizer, maxModelLen: 512 });
    mistral.runner.says = [
      vocabSize,
      ...(await tokenizer.encode('[{"name": "weather", "arguments": {}}]')).slice(tokenizer.addsBos ? 1 : 0),
    ];
    const { message, finish_reason } = (await post(fields, mistral)).body.choices[0];
    expect(finish_reason).toBe("tool_calls");
    expect(message.tool_calls[0]).toMatchObject({
      id: expect.stringMatching(/^\w{9}$/),
      function: { name: "weather", arguments: "{}" },
    });
    await mistral.server.close();
  });
});
