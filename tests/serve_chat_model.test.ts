import type OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { ModelRunner } from "../serve/engine/runner.ts";
import { createServer, type Server } from "../serve/index.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { ChatTemplate } from "../tokenizer/index.ts";
import { fakeChatTokenizer, officialClient } from "./serve_fake.ts";

/** The chat routes over a real model, which the other tests replace by a fake one. */
const tokenizer = fakeChatTokenizer();
let model: LlamaForCausalLM;
let server: Server;
let client: OpenAI;

beforeAll(async () => {
  await openDevice();
  model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, hidden_size: 32 }));
  server = createServer({
    runner: new ModelRunner(model, { maxModelLen: 512 }),
    tokenizer,
    modelName: "tiny",
  });
  const url = await server.listen({ port: 0 });
  client = officialClient(url);
});
afterAll(() => server.close());

const messages = [{ role: "user" as const, content: "once upon a time" }];

describe("a TinyLLM that chats", () => {
  it("says through chat, its stream and responses what it says offline", async () => {
    const { ids } = await new ChatTemplate(tokenizer).encode({ messages }, { addGenerationPrompt: true });
    const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
    const offline = await generator.complete(ids, { temperature: 0, max_tokens: 24 });
    generator.close();
    const asked = { model: "tiny", messages, temperature: 0, max_completion_tokens: 24 };
    const { choices, usage } = await client.chat.completions.create(asked);
    expect(choices[0].message.content).toBe(offline);
    expect(usage?.prompt_tokens).toBe(ids.length);
    expect(await client.chat.completions.stream(asked).finalContent()).toBe(offline);
    const response = await client.responses.create({
      ...{ model: "tiny", input: "once upon a time", temperature: 0, max_output_tokens: 24 },
    });
    expect(response.output_text).toBe(offline);
  });

  it("calls the function that it must", async () => {
    const parameters = {
      type: "object",
      properties: { city: { enum: ["Rome", "Oslo"] } },
      required: ["city"],
      additionalProperties: false,
    };
    const { choices } = await client.chat.completions.create({
      ...{ model: "tiny", messages, seed: 1, max_tokens: 120 },
      tools: [{ type: "function", function: { name: "weather", parameters } }],
      tool_choice: "required",
      parallel_tool_calls: false,
    });
    const [call] = choices[0].message.tool_calls!;
    expect(choices[0].finish_reason).toBe("tool_calls");
    expect(
      call.type === "function" && ["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city),
    ).toBe(true);
  });
});
