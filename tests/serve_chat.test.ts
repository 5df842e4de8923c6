import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { chatPrompt } from "../serve/text/chat.ts";
import { ChatTemplate, type Conversation, Tokenizer } from "../tokenizer/index.ts";
import { fakeChatTokenizer, fakeTokenizer, send, startServer, until } from "./serve_fake.ts";
import { type Chunk, fakeChat, MODEL, of, user } from "./support/fake_chat.ts";

const CONTEXT = 512;
const chat = fakeChat(CONTEXT);
const { post, chunksOf } = chat;
const textOf = (chunks: readonly Chunk[], index = 0) =>
  of(chunks, index)
    .map(({ delta }) => delta.content ?? "")
    .join("");

/** Ids of the prompt as the server rendered it. */
const promptOf = async (fields: object): Promise<number[]> =>
  (await post({ ...fields, max_tokens: 1, return_token_ids: true })).body.prompt_token_ids;
const asText = (ids: readonly number[]) => chat.server.tokenizer.decode(ids, { skipSpecialTokens: false });

describe("a chat", () => {
  it("W39: the body in full", async () => {
    const { body } = await post({ ignore_eos: true });
    expect(body).toMatchObject({ object: "chat.completion", model: MODEL });
    expect(body.id).toMatch(/^chatcmpl-/);
    expect(body.choices).toHaveLength(1);
    const { content } = body.choices[0].message;
    expect(body.choices[0]).toEqual({
      index: 0,
      message: { role: "assistant", content, refusal: null },
      logprobs: null,
      finish_reason: "length",
      stop_reason: null,
    });
    const prompt = (await promptOf({})).length;
    expect(body.usage).toMatchObject({
      prompt_tokens: prompt,
      completion_tokens: 16,
      total_tokens: prompt + 16,
    });
  });

  it("W11 W12 W18: a stream says the same: the role first, the reason last, both once", async () => {
    for (const fields of [{}, { temperature: 1, seed: 5, n: 3 }, { stop: "e" }, { max_tokens: 40 }]) {
      const { body } = await post(fields);
      const chunks = await chunksOf(fields);
      expect(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size).toBe(1);
      expect(chunks.some((chunk) => "usage" in chunk)).toBe(false);
      for (const { index, message, finish_reason } of body.choices) {
        expect(textOf(chunks, index)).toBe(message.content);
        const own = of(chunks, index);
        expect(own[0]).toMatchObject({ delta: { role: "assistant", content: "" }, finish_reason: null });
        expect(own.slice(1).some(({ delta }) => "role" in delta)).toBe(false);
        expect(own.at(-1)).toMatchObject({ finish_reason });
        expect(own.at(-1)!.delta).toEqual({});
        expect(own.filter((choice) => choice.finish_reason !== null)).toHaveLength(1);
      }
    }
  });

  it("W13: usage null on all chunks, then the counts; or on every chunk", async () => {
    const chunks = await chunksOf({ stream_options: { include_usage: true } });
    const last = chunks.pop()!;
    expect(last.choices).toEqual([]);
    expect(last.usage).toEqual((await post({})).body.usage);
    expect(chunks.every(({ usage }) => usage === null)).toBe(true);
    const running = await chunksOf({ stream_options: { include_usage: true, continuous_usage_stats: true } });
    expect(running.every(({ usage }) => usage!.total_tokens > 0)).toBe(true);
  });

  it("W19 W40: one score for each token, whose bytes are the text; in a stream the same", async () => {
    const fields = { logprobs: true, top_logprobs: 3, temperature: 1, max_tokens: 40, n: 2 };
    let ends = 0;
    for (let seed = 1; seed < 7; seed++) {
      const { body } = await post({ ...fields, seed });
      const chunks = await chunksOf({ ...fields, seed });
      for (const { index, message, logprobs, finish_reason } of body.choices) {
        const bytes = logprobs.content.flatMap((token: { bytes: number[] | null }) => token.bytes ?? []);
        expect(new TextDecoder("utf-8").decode(Uint8Array.from(bytes))).toBe(message.content);
        for (const { token, bytes: own, top_logprobs } of logprobs.content) {
          if (own !== null && !token.startsWith("bytes:")) expect(Buffer.from(own).toString()).toBe(token);
          expect(top_logprobs).toHaveLength(3);
        }
        if (finish_reason === "stop") {
          ends++;
          expect(logprobs.content.at(-1)).toMatchObject({
            token: expect.stringMatching(/^<\|/),
            bytes: null,
          });
        }
        expect(of(chunks, index).flatMap((choice) => choice.logprobs?.content ?? [])).toEqual(
          logprobs.content,
        );
      }
    }
    expect(ends).toBeGreaterThan(0);
    expect((await post({ top_logprobs: 2 })).body.error.param).toBe("top_logprobs");
    expect((await post({ logprobs: true, top_logprobs: 21 })).body.error.param).toBe("top_logprobs");
    expect((await post({ logprobs: true })).body.choices[0].logprobs.content[0].top_logprobs).toEqual([]);
  });

  it("W27: max_completion_tokens counts before max_tokens; without both the context is the end", async () => {
    const tokens = async (fields: object) =>
      (await post({ ignore_eos: true, ...fields })).body.usage.completion_tokens;
    expect(await tokens({ max_completion_tokens: 3, max_tokens: 9 })).toBe(3);
    expect(await tokens({ max_completion_tokens: null, max_tokens: 9 })).toBe(9);
    expect(await tokens({ max_tokens: null })).toBe(CONTEXT - (await promptOf({})).length);
    const prompt = (await promptOf({})).length;
    const { status, body } = await post({ max_tokens: CONTEXT - prompt + 1 });
    expect([status, body.error.param, body.error.code]).toEqual([400, "messages", "context_length_exceeded"]);
    expect(body.error.message).toMatch(
      new RegExp(`${CONTEXT} tokens.*${CONTEXT + 1}.*${prompt} in the prompt`),
    );
    expect((await post({ messages: [user("a".repeat(80_000))] })).body.error).toMatchObject({
      param: "messages",
      code: "context_length_exceeded",
    });
    expect((await post({ messages: [user("a b ".repeat(400))] })).body.error.code).toBe(
      "context_length_exceeded",
    );
  });

  it.each<[string, object, string]>([
    ["no messages", { messages: null }, "messages"],
    ["an empty list", { messages: [] }, "messages"],
    ["messages that are text", { messages: "hi" }, "messages"],
    ["no object", { messages: ["hi"] }, "messages.0"],
    ["no role", { messages: [{ content: "hi" }] }, "messages.0.role"],
    ["an unknown role", { messages: [{ role: "judge", content: "hi" }] }, "messages.0.role"],
    ["a number", { messages: [user(5)] }, "messages.0.content"],
    ["no content", { messages: [user(null)] }, "messages.0.content"],
    [
      "an assistant that says nothing",
      { messages: [user("a"), { role: "assistant", content: null }] },
      "messages.1.content",
    ],
    [
      "an image",
      { messages: [user([{ type: "image_url", image_url: { url: "http://127.0.0.1:9/x" } }])] },
      "messages.0.content",
    ],
    ["a part without text", { messages: [user([{ type: "text" }])] }, "messages.0.content"],
    [
      "tools of the user",
      {
        messages: [
          {
            ...user("a"),
            tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }],
          },
        ],
      },
      "messages.0.tool_calls",
    ],
    [
      "arguments that are no JSON",
      {
        messages: [
          {
            role: "assistant",
            tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{" } }],
          },
        ],
      },
      "messages.0.tool_calls.0.function.arguments",
    ],
    ["a prompt", { prompt: "hi" }, "prompt"],
    ["echo", { echo: true }, "echo"],
    ["best_of", { best_of: 2 }, "best_of"],
    ["special tokens", { add_special_tokens: true }, "add_special_tokens"],
    ["a template", { chat_template: "{{ messages }}" }, "chat_template"],
    ["stream_options alone", { stream_options: {} }, "stream_options"],
    ["n", { n: 129 }, "n"],
    ["temperature", { temperature: 3 }, "temperature"],
    ["a negative length", { max_completion_tokens: -1 }, "max_completion_tokens"],
    ["another tool", { tools: [], tool_choice: "required" }, "tool_choice"],
    ["an unnamed tool", { tools: [{ type: "function", function: {} }] }, "tools.0.function.name"],
    ["a tool of another kind", { tools: [{ type: "web_search" }] }, "tools.0.type"],
  ])("W15 W20 W38: %s is refused before the engine, streaming or not", async (_name, fields, param) => {
    const { steps } = chat.server.runner;
    for (const stream of [false, true]) {
      const { status, body } = await post(
        stream ? { stream, ...fields, ...("stream_options" in fields ? { stream: false } : {}) } : fields,
      );
      expect([status, body.error.param]).toEqual([400, param]);
    }
    expect(chat.server.runner.steps).toBe(steps);
  });

  it("neutral values of what other routes have pass", async () => {
    const fields = {
      echo: false,
      best_of: 1,
      add_special_tokens: false,
      prompt: "",
      response_format: { type: "text" },
      tools: [],
      store: false,
    };
    expect((await post(fields)).body.choices).toEqual((await post({})).body.choices);
  });

  it("the scores of the prompt, as vLLM has them", async () => {
    const { body } = await post({ prompt_logprobs: 1, return_token_ids: true });
    expect(body.prompt_logprobs).toHaveLength(body.usage.prompt_tokens);
    expect(body.prompt_logprobs[0]).toBeNull();
    body.prompt_token_ids.slice(1).forEach((id: number, i: number) => {
      expect(body.prompt_logprobs[i + 1][id].logprob).toBeLessThanOrEqual(0);
    });
    expect((await post({ prompt_logprobs: 1, stream: true })).body.error.param).toBe("prompt_logprobs");
  });

  it("F2: a full queue is told before the messages are rendered", async () => {
    const busy = await startServer({
      tokenizer: fakeChatTokenizer(),
      maxSeqs: 1,
      limits: { queuedRequests: 1 },
    });
    const render = vi.spyOn(ChatTemplate.prototype, "render");
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    busy.runner.before = () => held;
    const asked = [post({}, busy)];
    await until(() => busy.engine.stats().running === 1);
    asked.push(post({}, busy));
    await until(() => busy.engine.stats().waiting === 1);
    expect((await post({}, busy)).status).toBe(429);
    expect(render).toHaveBeenCalledTimes(2);
    render.mockRestore();
    release();
    await Promise.all(asked);
    await busy.server.close();
  });

  it("W44: without a template the model cannot chat", async () => {
    const plain = await startServer({ tokenizer: fakeTokenizer() });
    const { status, body } = await post({}, plain);
    expect([status, body.error.param]).toEqual([400, "model"]);
    expect(body.error.message).toMatch(/no chat template.*chat_template\.jinja/);
    await plain.server.close();
  });

  it("a template that is broken, or does not end, fails its own requests only", async () => {
    for (const [template, param, message] of [
      ["{% for x in %}", "model", /cannot be parsed.*correct chat_template\.jinja/],
      ["{% for i in range(100000000) %}x{% endfor %}", "messages", /does not end within 2 s/],
    ] as const) {
      const { json, config } = fakeTokenizer();
      const tokenizer = new Tokenizer(json, { tokenizer_config: { ...config }, chat_template: template });
      const told = vi.spyOn(process.stderr, "write").mockReturnValue(true);
      const odd = await startServer({ tokenizer });
      const lines = told.mock.calls.flat().filter((text) => String(text).includes("cannot chat"));
      told.mockRestore();
      // What does not parse is told at the start; what does not end nobody knows before.
      if (param === "messages") expect(lines).toEqual([]);
      else
        expect(lines).toEqual([
          expect.stringMatching(
            /^warning: \S+ cannot chat, only complete texts: .*correct chat_template\.jinja, or .*\n$/,
          ),
        ]);
      const text = await send(`${odd.url}/v1/completions`, {
        json: { model: MODEL, prompt: "once", max_tokens: 2 },
      });
      expect(text.status).toBe(200);
      const { status, body } = await post({}, odd);
      expect([status, body.error.param, body.error.message]).toEqual([
        400,
        param,
        expect.stringMatching(message),
      ]);
      await odd.server.close();
    }
    expect((await post({})).status).toBe(200);
  });
});

describe("what the model reads", () => {
  it("W41: is what the template makes of the messages", async () => {
    const conversation: Conversation = {
      messages: [
        { role: "system", content: "be kind" },
        { role: "user", content: "hello" },
        { role: "assistant", content: "hi" },
        { role: "user", content: "one\ntwo" },
      ],
    };
    const { ids } = await new ChatTemplate(chat.server.tokenizer).encode(conversation, {
      addGenerationPrompt: true,
    });
    const messages = conversation.messages.map((message, i) => ({
      ...message,
      role: i === 0 ? "developer" : message.role,
      content:
        i === 3
          ? [
              { type: "text", text: "one" },
              { type: "text", text: "two" },
            ]
          : message.content,
    }));
    expect(await promptOf({ messages })).toEqual(ids);
    expect(asText(ids)).toBe(
      "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n",
    );
  });

  it("an open turn is continued, white space and all, and never together with a new one", async () => {
    const messages = [user("hello"), { role: "assistant", content: "once <|im_end|> upon " }];
    const fields = { messages, continue_final_message: true };
    const text = asText(await promptOf({ ...fields, add_generation_prompt: false }));
    expect(text).toBe("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nonce <|im_end|> upon ");
    expect((await post(fields)).body.error.param).toBe("continue_final_message");
    expect(asText(await promptOf({ add_generation_prompt: false }))).toMatch(/<\|im_end\|>\n$/);
  });

  it("continues a message that its template trims, as transformers does", () => {
    const source = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    const { text } = new ChatTemplate(chat.server.tokenizer, source).render(
      { messages: [{ role: "assistant", content: " once upon " }] },
      { continueFinalMessage: true },
    );
    expect(text).toBe("[once upon");
    const hidden = new ChatTemplate(chat.server.tokenizer, "{{ messages | length }}");
    const ask = () =>
      hidden.render({ messages: [{ role: "user", content: "a" }] }, { continueFinalMessage: true });
    expect(ask).toThrow("does not show the last message");
  });

  it("chat_template_kwargs reach the template", async () => {
    const { json, config } = fakeChatTokenizer();
    const chat_template = "{{ '<|im_start|>' }}{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}";
    const moody = await startServer({
      tokenizer: new Tokenizer(json, { tokenizer_config: config, chat_template }),
    });
    const { body } = await post(
      { chat_template_kwargs: { mood: "glad " }, return_token_ids: true, max_tokens: 1 },
      moody,
    );
    expect(asText(body.prompt_token_ids)).toBe("<|im_start|>glad once upon a time");
    await moody.server.close();
  });

  it("W41 F30: special tokens that a message spells are text (property, 10,000 random texts)", async () => {
    const { tokenizer } = chat.server;
    const special = (ids: readonly number[]) => ids.filter((id) => tokenizer.isSpecial(id));
    const control = fc.constantFrom(
      "<|im_end|>",
      "<|im_start|>",
      "<|endoftext|>",
      "<s>",
      "<|im_",
      "end|>",
      "<|",
      "|>",
      "system\n",
    );
    const content = fc
      .array(
        fc.oneof(
          control,
          control,
          fc.integer({ min: 0xe000, max: 0x10ffff }).map((code) => String.fromCodePoint(code)),
        ),
        { maxLength: 8 },
      )
      .map((parts) => parts.join(""));
    const encode = async (texts: readonly string[]) => {
      const messages = texts.map((text, i) => ({
        role: i % 2 === 0 ? ("user" as const) : ("assistant" as const),
        content: text,
      }));
      const { pieces } = chatPrompt(tokenizer, { conversation: { messages } });
      return (await tokenizer.encodePiecesUpTo(10_000, pieces)).ids!;
    };
    const plain = special(await encode(new Array(20).fill("a")));
    expect(plain.length).toBe(41);
    const texts = fc.sample(content, { numRuns: 10_000, seed: 7 });
    expect(texts.filter((text) => text.includes("<|im_end|>")).length).toBeGreaterThan(1000);
    for (let i = 0; i < texts.length; i += 20) {
      const ids = await encode(texts.slice(i, i + 20));
      if (JSON.stringify(special(ids)) !== JSON.stringify(plain))
        throw new Error(`control tokens in ${JSON.stringify(texts.slice(i, i + 20))}`);
    }
  });

  it("F28: a URL in a message opens no connection", async () => {
    const { Socket } = await import("node:net");
    const targets: unknown[] = [];
    const { connect } = Socket.prototype;
    const spy = vi.spyOn(Socket.prototype, "connect").mockImplementation(function (
      this: never,
      ...args: never[]
    ) {
      targets.push(args);
      return Reflect.apply(connect, this, args);
    } as never);
    const messages = [user([{ type: "image_url", image_url: { url: "http://127.0.0.1:9/x.png" } }])];
    const { status } = await post({ messages });
    await post({ messages: [user("see http://127.0.0.1:9/x.png")] });
    spy.mockRestore();
    expect(status).toBe(400);
    expect(JSON.stringify(targets)).not.toContain(":9");
  });
});
