import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI as LangchainCompletions } from "@langchain/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { LengthFinishReasonError } from "openai/core/error";
import { zodResponseFormat } from "openai/helpers/zod";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { z } from "zod";
import {
  fakeChatTokenizer,
  IDLE,
  idle,
  officialClient,
  startServer,
  type TestServer,
  until,
} from "./serve_fake.ts";
import { checkedFetch } from "./support/checked_fetch.ts";
import { checkSchema } from "./support/openai_schemas.ts";

/** The clients that people use, each with its own checks of what it receives. */
const MODEL = "tiny/fake";
let server: TestServer;
beforeAll(async () => {
  server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 1000 });
});
afterEach(async () => {
  server.runner.says = null;
  await until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
});
afterAll(() => server.server.close());

const say = async (text: string) => {
  server.runner.says = (await server.tokenizer.encodeUpTo(1e4, text, { addSpecialTokens: false })).ids;
};
const call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>';
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
const weather = {
  type: "function" as const,
  function: { name: "weather", description: "Today's weather.", parameters },
};
const messages = [{ role: "user" as const, content: "once upon a time" }];
const mood = z.object({ mood: z.enum(["glad", "sad"]), sure: z.boolean() });

it("the fetch of these clients refuses what OpenAI's schemas do", async () => {
  const json = { "content-type": "application/json" };
  const events = { "content-type": "text/event-stream" };
  const choice = { index: 0, text: "a", logprobs: null, finish_reason: null };
  const chunk = { id: "x", object: "text_completion", created: 1, model: "m", choices: [choice] };
  const usage = {
    prompt_tokens: 1,
    completion_tokens: 1,
    total_tokens: 2,
    prompt_tokens_details: { cached_tokens: 0 },
  };
  const answer = { ...chunk, choices: [{ ...choice, finish_reason: "stop" }], usage };
  const asked = { model: "m", prompt: "a" };
  const ask = async (request: object, body: string, headers: Record<string, string>) => {
    const real = vi.spyOn(globalThis, "fetch").mockResolvedValue(new Response(body, { headers }));
    const url = "http://127.0.0.1/v1/completions";
    try {
      return await (await checkedFetch(url, { method: "POST", body: JSON.stringify(request) })).text();
    } finally {
      real.mockRestore();
    }
  };
  const stream = (...data: object[]) => data.map((one) => `data: ${JSON.stringify(one)}\n\n`).join("");
  expect(JSON.parse(await ask(asked, JSON.stringify(answer), json))).toEqual(answer);
  expect(await ask(asked, stream(chunk), events)).toBe(stream(chunk));
  await expect(ask({ ...asked, n: 0 }, JSON.stringify(answer), json)).rejects.toThrow(
    "not a valid CreateCompletionRequest",
  );
  await expect(ask(asked, JSON.stringify(chunk), json)).rejects.toThrow(
    "not a valid CreateCompletionResponse",
  );
  await expect(ask(asked, stream(chunk, { ...chunk, created: "now" }), events)).rejects.toThrow(
    "not a valid CompletionChunk",
  );
});

describe("openai", () => {
  it("chats, alone and by its stream helper, which checks the order of chunks", async () => {
    const fields = {
      model: MODEL,
      messages,
      temperature: 0,
      max_completion_tokens: 20,
      n: 2,
      logprobs: true,
    };
    const whole = await server.client.chat.completions.create(fields);
    checkSchema("CreateChatCompletionResponse", whole);
    const stream = server.client.chat.completions.stream({
      ...fields,
      stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    expect(final.choices.map(({ message }) => message.content)).toEqual(
      whole.choices.map(({ message }) => message.content),
    );
    expect(final.usage?.total_tokens).toBe(whole.usage?.total_tokens);
    expect(final.choices[0].logprobs).toEqual(whole.choices[0].logprobs);
  });

  it("parses structured output", async () => {
    const answer = await server.client.chat.completions.parse({
      model: MODEL,
      messages,
      max_tokens: 200,
      response_format: zodResponseFormat(mood, "mood"),
    });
    expect(mood.safeParse(answer.choices[0].message.parsed).success).toBe(true);
    const cut = server.client.chat.completions.parse({
      model: MODEL,
      messages,
      max_tokens: 2,
      response_format: zodResponseFormat(mood, "mood"),
    });
    await expect(cut).rejects.toThrow(LengthFinishReasonError);
  });

  it("runs a tool and answers with its result", async () => {
    await say(call);
    const asked: unknown[] = [];
    const runner = server.client.chat.completions.runTools({
      model: MODEL,
      messages,
      max_tokens: 200,
      stream: true,
      tools: [
        {
          type: "function",
          function: {
            name: "weather",
            parameters,
            description: "Today's weather.",
            parse: JSON.parse,
            function: async (args: object) => {
              asked.push(args);
              await say("it is warm");
              return "warm";
            },
          },
        },
      ],
    });
    expect(await runner.finalContent()).toBe("it is warm");
    expect(asked).toEqual([{ city: "Rome" }]);
  });

  it("creates and streams responses", async () => {
    const fields = { model: MODEL, input: "once upon a time", temperature: 0, max_output_tokens: 20 };
    const whole = await server.client.responses.create(fields);
    const events = await server.client.responses.create({ ...fields, stream: true });
    let text = "";
    for await (const event of events) if (event.type === "response.output_text.delta") text += event.delta;
    expect(text).toBe(whole.output_text);
    const final = await server.client.responses.stream(fields).finalResponse();
    expect(final.output_text).toBe(whole.output_text);
    expect(final.usage?.total_tokens).toBe(whole.usage?.total_tokens);
    await say(call);
    const called = await server.client.responses
      .stream({
        ...{ model: MODEL, input: "weather?", max_output_tokens: 100 },
        tools: [{ type: "function", name: "weather", parameters, strict: true }],
      })
      .finalResponse();
    expect(called.output).toMatchObject([{ type: "function_call", arguments: '{"city": "Rome"}' }]);
  });

  /** The client as it comes, with its retries, and the attempts that it makes. */
  function retrying(url: string) {
    const attempts: string[] = [];
    const client = officialClient(url, {
      maxRetries: 2,
      fetch: (target, init) => {
        attempts.push(new Headers(init?.headers).get("x-stainless-retry-count") ?? "");
        return checkedFetch(target as string, init);
      },
    });
    return { client, attempts };
  }

  it("W52: tries a full queue again after the time it was told", async () => {
    const busy = await startServer({ maxSeqs: 1, limits: { queuedRequests: 1 } });
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    busy.runner.before = () => held;
    const ask = { model: MODEL, prompt: "a", max_tokens: 2 };
    const first = busy.client.completions.create(ask);
    await until(() => busy.engine.stats().running === 1);
    const second = busy.client.completions.create(ask);
    await until(() => busy.engine.stats().waiting === 1);
    const { client, attempts } = retrying(busy.url);
    const third = client.completions.create(ask);
    await until(() => attempts.length === 2);
    release();
    expect((await third).choices).toHaveLength(1);
    expect(attempts).toEqual(["0", "1", "2"]);
    await Promise.all([first, second]);
    await busy.server.close();
  });

  it("W53: does not try again what would fail again", async () => {
    const broken = await startServer();
    broken.runner.failItem = () => "broken";
    const { client, attempts } = retrying(broken.url);
    const asked = client.completions.create({ model: MODEL, prompt: "a" });
    await expect(asked).rejects.toMatchObject({ status: 500, code: "engine_error" });
    expect(attempts).toEqual(["0"]);
    await broken.server.close();
  });
});

describe("ai with @ai-sdk/openai-compatible", () => {
  const provider = () =>
    createOpenAICompatible({
      name: "kiln",
      baseURL: `${server.url}/v1`,
      supportsStructuredOutputs: true,
      includeUsage: true,
      fetch: checkedFetch,
    });

  it("generates and streams text, with its usage", async () => {
    const asked = {
      model: provider()(MODEL),
      prompt: "once upon a time",
      temperature: 0,
      maxOutputTokens: 20,
    };
    const { text, usage } = await generateText(asked);
    const stream = streamText(asked);
    let streamed = "";
    for await (const delta of stream.textStream) streamed += delta;
    expect(streamed).toBe(text);
    expect(text.length).toBeGreaterThan(0);
    expect((await stream.usage).totalTokens).toBe(usage.totalTokens);
    expect(usage.outputTokens).toBeGreaterThan(0);
    const completion = await generateText({ ...asked, model: provider().completionModel(MODEL) });
    expect(completion.text.length).toBeGreaterThan(0);
  });

  it("binds the answer to a schema", async () => {
    const { output } = await generateText({
      model: provider()(MODEL),
      prompt: "how is it?",
      maxOutputTokens: 200,
      output: Output.object({ schema: mood }),
    });
    expect(mood.safeParse(output).success).toBe(true);
  });

  it.each([false, true])("calls a tool and goes on, streaming: %s", async (streams) => {
    await say(call);
    const tools = {
      weather: tool({
        description: "Today's weather.",
        inputSchema: z.object({ city: z.enum(["Rome", "Oslo"]) }),
        execute: async ({ city }) => {
          await say("it is warm");
          return `${city}: warm`;
        },
      }),
    };
    const asked = {
      model: provider()(MODEL),
      prompt: "weather?",
      maxOutputTokens: 200,
      tools,
      stopWhen: stepCountIs(2),
    };
    const result = streams ? streamText(asked) : await generateText(asked);
    const steps = await result.steps;
    expect(await result.text).toBe("it is warm");
    expect(steps[0].toolCalls).toMatchObject([{ toolName: "weather", input: { city: "Rome" } }]);
    expect(steps[0].finishReason).toBe("tool-calls");
  });
});

describe("@langchain/openai", () => {
  const configuration = () => ({ baseURL: `${server.url}/v1`, fetch: checkedFetch });
  const chat = (fields: object = {}) =>
    new ChatOpenAI({
      model: MODEL,
      apiKey: "none",
      temperature: 0,
      maxTokens: 200,
      configuration: configuration(),
      ...fields,
    });

  it("chats, streams and completes", async () => {
    const question = [new HumanMessage("once upon a time")];
    await say("it is warm");
    const whole = await chat().invoke(question);
    let text = "";
    for await (const chunk of await chat().stream(question)) text += chunk.content;
    expect([whole.content, text]).toEqual(["it is warm", "it is warm"]);
    expect(whole.usage_metadata?.output_tokens).toBeGreaterThan(1);
    const later = await chat({ useResponsesApi: true }).invoke(question);
    expect(later.text).toBe("it is warm");
    const completion = new LangchainCompletions({
      model: MODEL,
      apiKey: "none",
      maxTokens: 20,
      configuration: configuration(),
    });
    expect(await completion.invoke("once upon")).toBe("it is warm");
  });

  it("calls tools and binds answers", async () => {
    await say(call);
    const called = await chat().bindTools([weather]).invoke("weather?");
    expect(called.tool_calls).toMatchObject([{ name: "weather", args: { city: "Rome" } }]);
    server.runner.says = null;
    const bound = chat({ temperature: 1 }).withStructuredOutput(mood, { method: "jsonSchema" });
    expect(mood.safeParse(await bound.invoke("how is it?")).success).toBe(true);
    const forced = chat({ temperature: 1 }).withStructuredOutput(mood, {
      method: "functionCalling",
      name: "mood",
    });
    expect(mood.safeParse(await forced.invoke("how is it?")).success).toBe(true);
  });
});

describe("curl", () => {
  const curl = async (...args: string[]) => (await promisify(execFile)("curl", ["-sS", ...args])).stdout;

  it("asks and streams", async () => {
    await say("it is warm");
    const body = JSON.stringify({ model: MODEL, messages });
    const json = ["-H", "content-type: application/json", "-d", body];
    const answer = JSON.parse(await curl(`${server.url}/v1/chat/completions`, ...json));
    expect(answer.choices[0].message.content).toBe("it is warm");
    const stream = await curl(
      "-N",
      `${server.url}/v1/chat/completions`,
      "--json",
      JSON.stringify({ model: MODEL, messages, stream: true }),
    );
    expect(stream.endsWith("data: [DONE]\n\n")).toBe(true);
    const refused = await curl("-w", "%{http_code}", `${server.url}/v1/chat/completions`, "-d", body);
    expect(refused).toMatch(/unsupported_media_type.*415$/);
  });
});
