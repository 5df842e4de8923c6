import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ChatServer, chatServer } from "./support/chat_server.ts";

const params = { temperature: 0, max_tokens: 6 };

describe("what the page asks beside the chat", () => {
  let server: ChatServer;
  beforeAll(async () => {
    server = await chatServer("page", "single", { maxModelLen: 256 });
  });
  afterAll(() => server.server.close(0));
  const say = async (query: string, more: object = {}) => {
    const { status, body } = await server.ask("POST", "/api/chat", {
      user_id: "local",
      query,
      params,
      ...more,
    });
    expect(status).toBe(200);
    return body;
  };
  const tokens = async (json: object) => {
    const answer = await server.ask("POST", "/api/tokens", { model: "tiny/fake", text: "", ...json });
    expect(answer.status).toBe(200);
    return answer.body as { tokens: number; context_length: number };
  };

  it("/api/tokens counts what the model would be sent", async () => {
    const first = await say("once upon");
    expect(await tokens({ text: "once upon" })).toEqual({
      ...{ tokens: first.usage.prompt_tokens, context_length: 256 },
    });
    expect((await tokens({})).tokens).toBe(0);
    const { conversation_id } = first;
    const next = await tokens({ conversation_id, parent_id: first.message_id, text: "a time" });
    const second = await say("a time", { conversation_id });
    expect(next.tokens).toBe(second.usage.prompt_tokens);
    const system = await tokens({ text: "once upon", system: "a b c" });
    expect(system.tokens).toBeGreaterThan(first.usage.prompt_tokens);
    // More than fits: by its count, or that there is no use in counting.
    for (const length of [300, 100_000]) {
      const { tokens: many } = await tokens({ text: "a ".repeat(length) });
      expect(many).toBeGreaterThan(256);
    }
    const none = await server.ask("POST", "/api/tokens", { model: "none", text: "a" });
    expect([none.status, none.body.error.code]).toEqual([404, "model_not_found"]);
  });

  it("/alternatives says what the model held for likely in the place of each token", async () => {
    server.runner.says = await server.tokenizer.encode(" a time there was", { addSpecialTokens: false });
    const { message_id, response, usage } = await say("once upon");
    server.runner.says = null;
    const { status, body } = await server.ask("GET", `/api/messages/${message_id}/alternatives?top=3`);
    expect(status).toBe(200);
    expect(body.tokens.map(({ text }: { text: string }) => text).join("")).toBe(response);
    expect(response).toBe(" a time there was".slice(0, response.length));
    expect(body.tokens).toHaveLength(usage.completion_tokens - (usage.completion_tokens < 6 ? 1 : 0));
    // The same as the server says of the same text by another route.
    const again = await server.ask("POST", "/v1/chat/completions", {
      ...{ model: "tiny/fake", max_tokens: 1, prompt_logprobs: 3 },
      ...{ add_generation_prompt: false, continue_final_message: true },
      messages: [
        { role: "user", content: "once upon" },
        { role: "assistant", content: response },
      ],
    });
    type Scores = Record<string, { logprob: number; decoded_token: string; rank: number }>;
    const scores: Scores[] = again.body.prompt_logprobs.slice(-body.tokens.length);
    for (const [i, { text, probability, top }] of body.tokens.entries()) {
      const known = Object.values(scores[i]!);
      const own = known.find(({ decoded_token }) => decoded_token === text)!;
      expect(Math.log(probability)).toBeCloseTo(own.logprob, 9);
      for (const [rank, one] of top.entries())
        expect(known).toContainEqual({
          ...{
            decoded_token: one.text,
            rank: rank + 1,
            logprob: expect.closeTo(Math.log(one.probability), 9),
          },
        });
    }
    for (const { probability, entropy, top } of body.tokens) {
      expect(top).toHaveLength(3);
      expect(probability).toBeGreaterThan(0);
      expect(top[0].probability).toBeGreaterThanOrEqual(probability);
      expect(top[0].probability).toBeGreaterThanOrEqual(top[1].probability);
      expect(entropy).toBeGreaterThan(0);
      expect(entropy).toBeLessThanOrEqual(Math.log2(101));
    }
    const asked = await server.ask("GET", "/api/conversations?limit=1");
    const list = await server.ask("GET", `/api/conversations/${asked.body.conversations[0].id}/messages`);
    const wrong = await server.ask("GET", `/api/messages/${list.body.messages[0].id}/alternatives`);
    expect([wrong.status, wrong.body.error.code]).toEqual([409, "not_an_answer"]);
  });
});

describe("S4: requests of other sites", () => {
  let server: ChatServer;
  beforeAll(async () => {
    server = await chatServer("sites", "single");
  });
  afterAll(() => server.server.close(0));
  const form = { "content-type": "application/x-www-form-urlencoded" };
  const ask = { user_id: "local", query: "once upon", params };

  it("curl needs no header for a body on Ollama's and the application's routes, a form of a page is refused", async () => {
    const ollama = { model: "tiny/fake", prompt: "once", stream: false, options: { num_predict: 2 } };
    for (const [route, body] of [
      ["/api/chat", ask],
      ["/api/generate", ollama],
      ["/api/conversations", { title: "Tales" }],
    ] as const) {
      expect((await server.ask("POST", route, body, form)).status, route).toBeLessThan(300);
      const pages: Record<string, string>[] = [
        { origin: "https://evil.example" },
        { "sec-fetch-site": "cross-site" },
      ];
      for (const own of pages) {
        const { status } = await server.ask("POST", route, body, { ...form, ...own });
        expect([403, 415], route).toContain(status);
      }
    }
    const v1 = await server.ask("POST", "/v1/completions", { model: "tiny/fake", prompt: "once" }, form);
    expect(v1.status).toBe(415);
  });

  it("no page but the server's own changes what is kept", async () => {
    const { conversation_id } = (await server.ask("POST", "/api/chat", ask)).body;
    const target = `/api/conversations/${conversation_id}`;
    for (const origin of ["https://evil.example", "http://localhost:1", "null"]) {
      const headers = { origin };
      for (const [method, route, body] of [
        ["PATCH", target, { title: "Mine" }],
        ["DELETE", target, undefined],
        ["POST", "/api/chat", ask],
        ["POST", "/api/keys", { name: "x" }],
      ] as const) {
        const { status, body: refusal } = await server.ask(method, route, body, headers);
        expect([route, status, refusal.error.code]).toEqual([route, 403, "origin_not_allowed"]);
      }
    }
    expect((await server.ask("GET", target)).body.title).toBe("once upon");
    const own = await server.ask("PATCH", target, { title: "Mine" }, { origin: server.url });
    expect([own.status, own.body.title]).toEqual([200, "Mine"]);
  });
});
