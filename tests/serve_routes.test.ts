import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { routes } from "../serve/http/api/index.ts";
import { LIMITS } from "../serve/limits.ts";
import { fakeChatTokenizer, send, startServer, type TestServer, until } from "./serve_fake.ts";
import { PATHS } from "./support/openai_schemas.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 256 });
});
afterAll(() => server.server.close());

const post = (path: string, json: object) => send(server.url + path, { json });
const get = (path: string, headers = {}) => send(server.url + path, { headers });

const character = fc.oneof(fc.nat(0x7f), fc.nat(0xd7ff), fc.integer({ min: 0xe000, max: 0x10ffff }));
const anyText = fc.array(character, { maxLength: 30 }).map((codes) => String.fromCodePoint(...codes));

describe("W48: tokenize and detokenize", () => {
  it("give what the tokenizer gives, and what a prompt is read as", async () => {
    const text = "once upon <|im_end|> a time é😀";
    const tokens = await server.tokenizer.encode(text);
    const { body } = await post("/tokenize", { model: "tiny/fake", prompt: text });
    expect(body).toEqual({ count: tokens.length, max_model_len: 256, tokens, token_strs: null });
    const plain = await post("/tokenize", {
      prompt: text,
      add_special_tokens: false,
      return_token_strs: true,
    });
    expect(plain.body.tokens).toEqual(tokens.slice(1));
    expect(plain.body.token_strs).toEqual(tokens.slice(1).map((id) => server.tokenizer.idToToken(id)));
    const chat = { messages: [{ role: "user", content: text }] };
    const read = await post("/tokenize", chat);
    const { usage } = (await post("/v1/chat/completions", { model: "tiny/fake", max_tokens: 1, ...chat }))
      .body;
    expect(read.body.count).toBe(usage.prompt_tokens);
    expect(read.body.tokens).toHaveLength(read.body.count);
    const open = await post("/tokenize", { ...chat, add_generation_prompt: false });
    expect(open.body.count).toBeLessThan(read.body.count);
    // More than the context holds is counted all the same.
    expect((await post("/tokenize", { prompt: "a b ".repeat(300) })).body.count).toBeGreaterThan(256);
    expect((await post("/tokenize", { prompt: "" })).body.tokens).toEqual([1]);
  });

  it("any text comes back as it was (property)", async () => {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        const { body } = await post("/tokenize", { prompt: text, add_special_tokens: false });
        const back = await post("/detokenize", { tokens: body.tokens });
        expect(back.body).toEqual({ prompt: text });
      }),
      { numRuns: 100 },
    );
    const { body } = await post("/detokenize", {
      tokens: [1, ...(await server.tokenizer.encode("a")).slice(1)],
    });
    expect(body.prompt).toBe("<s>a");
  });

  it.each<[string, string, object, string]>([
    ["nothing", "/tokenize", {}, "prompt"],
    ["both", "/tokenize", { prompt: "a", messages: [{ role: "user", content: "a" }] }, "prompt"],
    ["a number", "/tokenize", { prompt: 5 }, "prompt"],
    ["a bad message", "/tokenize", { messages: [{ role: "user" }] }, "messages.0.content"],
    ["too long a text", "/tokenize", { prompt: "a".repeat(40_000) }, "prompt"],
    ["no tokens", "/detokenize", {}, "tokens"],
    ["a token that is none", "/detokenize", { tokens: [99999] }, "tokens"],
    ["a negative token", "/detokenize", { tokens: [-1] }, "tokens.0"],
  ])("%s is refused by %s", async (_name, path, json, param) => {
    const { status, body } = await post(path, json);
    expect([status, body.error.param]).toEqual([400, param]);
  });

  it("an unknown model is none", async () => {
    expect((await post("/tokenize", { model: "none", prompt: "a" })).body.error.code).toBe("model_not_found");
    expect((await post("/detokenize", { model: "none", tokens: [] })).status).toBe(404);
  });
});

describe("W49: the state of the server", () => {
  it("/version is the package's, without a key", async () => {
    const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
    const locked = await startServer({ apiKey: "k" });
    expect((await send(`${locked.url}/version`)).body).toEqual({ version });
    expect((await send(`${locked.url}/load`)).status).toBe(401);
    await locked.server.close();
  });

  it("/load counts what runs and waits; /ready is 503 while the queue is full, /health is not", async () => {
    const busy = await startServer({ maxSeqs: 1, limits: { queuedRequests: 2 } });
    expect((await send(`${busy.url}/load`)).body).toEqual({ server_load: 0, running: 0, waiting: 0 });
    expect((await send(`${busy.url}/ready`)).status).toBe(200);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    busy.runner.before = () => held;
    const ask = () =>
      send(`${busy.url}/v1/completions`, { json: { model: "tiny/fake", prompt: "a", max_tokens: 2 } });
    const asked = [ask()];
    // The queue holds two: all three at once might find it full before the first has left it.
    await until(() => busy.engine.stats().running === 1);
    asked.push(ask(), ask());
    await until(() => busy.engine.stats().waiting === 2);
    expect((await send(`${busy.url}/load`)).body).toEqual({ server_load: 3, running: 1, waiting: 2 });
    const { status, headers, body } = await send(`${busy.url}/ready`);
    expect([status, headers.get("retry-after"), body.error.code]).toEqual([503, "1", "queue_full"]);
    expect((await send(`${busy.url}/health`)).status).toBe(200);
    release();
    await Promise.all(asked);
    expect((await send(`${busy.url}/ready`)).status).toBe(200);
    await busy.server.close();
  });

  it("both are 503 while the server drains", async () => {
    const leaving = await startServer();
    leaving.runner.before = () => new Promise((resolve) => setTimeout(resolve, 30));
    const json = { model: "tiny/fake", prompt: "a", max_tokens: 5, ignore_eos: true };
    const asked = send(`${leaving.url}/v1/completions`, { json });
    await until(() => leaving.engine.stats().running === 1);
    const closing = leaving.server.close();
    for (const path of ["/ready", "/health"]) {
      const { status, body } = await send(leaving.url + path);
      expect([status, body.error.code]).toEqual([503, "shutting_down"]);
    }
    expect((await asked).status).toBe(200);
    await closing;
  });
});

describe("/openapi.json", () => {
  it("has every route, and schemas that accept their examples", async () => {
    const { body } = await get("/openapi.json");
    expect(body.openapi).toBe("3.1.0");
    for (const { method, path, open, schema, example } of routes) {
      const found = body.paths[path.replace("*", "{name}")][method.toLowerCase()];
      expect(found.summary).toMatch(/^\S.{3,}/);
      expect(found.security === undefined).toBe(open === true);
      expect(found.requestBody === undefined).toBe(schema === undefined);
      if (schema === undefined) continue;
      const { content } = found.requestBody;
      const { schema: described, example: shown } = content["application/json"];
      expect(shown).toEqual(example);
      const validate = new Ajv2020({ strict: false }).compile(described);
      expect([path, validate(shown), validate.errors]).toEqual([path, true, null]);
      expect(schema(LIMITS).safeParse(shown).success).toBe(true);
      expect([path, validate({ model: 5 })]).toEqual([path, false]);
    }
    expect(Object.values(body.paths).flatMap((one) => Object.keys(one as object))).toHaveLength(
      routes.length,
    );
  });

  it("has the schemas of OpenAI's answers, which are those that tests hold every answer to", async () => {
    const { body: document } = await get("/openapi.json");
    const told = (name: string) => ({ schema: { $ref: `#/components/schemas/${name}` } });
    for (const { path, answer, event } of routes) {
      const known = PATHS.find((one) => one.path.test(path.replace("*", "x")));
      expect([path, answer, event]).toEqual([path, known?.body, known?.event]);
      const [{ responses }] = Object.values(document.paths[path.replace("*", "{name}")]) as [never];
      const { 200: good, default: bad } = responses as Record<string, { content?: object }>;
      expect(bad.content).toEqual({ "application/json": told("ErrorResponse") });
      expect(good.content).toEqual(
        answer && {
          "application/json": told(answer),
          ...(event && { "text/event-stream": told(event) }),
        },
      );
    }
    const ajv = new Ajv2020({ strict: false }).addSchema(document, "document");
    const checks = (name: string, value: unknown) =>
      ajv.getSchema(`document#/components/schemas/${name}`)!(value);
    const { body: models } = await get("/v1/models");
    expect([checks("ListModelsResponse", models), checks("Model", models.data[0])]).toEqual([true, true]);
    const { body: answer } = await post("/v1/completions", { model: "tiny/fake", prompt: "a", logprobs: 1 });
    expect(checks("CreateCompletionResponse", answer)).toBe(true);
    expect(checks("CreateChatCompletionResponse", answer)).toBe(false);
    expect(checks("CreateCompletionResponse", { ...answer, choices: [{ index: 0 }] })).toBe(false);
  });

  it("says the server's own limits", async () => {
    const { body } = await get("/openapi.json");
    const { properties } = body.paths["/v1/completions"].post.requestBody.content["application/json"].schema;
    expect(JSON.stringify(properties.n)).toContain(`"maximum":${LIMITS.n}`);
    expect(JSON.stringify(properties.logprobs)).toContain(`"maximum":${LIMITS.logprobs}`);
  });

  it("each example is answered", async () => {
    const answered: string[] = [];
    const posts = routes.filter(({ method }) => method === "POST");
    for (const { path, example, admin } of posts) {
      const { status, body } = await post(path, {
        ...example,
        ...("model" in (example ?? {}) ? { model: "tiny/fake" } : {}),
      });
      // Encoders and the administrator have their own tests: this model writes text, and its server has no such key.
      const code = admin ? "administration_off" : "model_not_supported";
      if (path.startsWith("/api/emb")) expect([path, status]).toEqual([path, 400]);
      else if (status !== 200) expect([path, body.error.code]).toEqual([path, code]);
      else answered.push(path);
    }
    expect(answered).toEqual(
      expect.arrayContaining(["/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize"]),
    );
  });
});

it("W50 F25: every route of the router's table wants a key, but for probes and the version", async () => {
  const locked = await startServer({ apiKey: "s3cret" });
  const open = ["/health", "/ready", "/version"];
  expect(routes.filter((route) => route.open).map(({ path }) => path)).toEqual(open);
  for (const { method, path } of routes) {
    for (const authorization of ["", "Bearer wrong"]) {
      const url = locked.url + path.replace("*", "tiny/fake");
      const { status } = await send(url, { method, headers: { authorization } });
      expect([path, status]).toEqual([path, open.includes(path) ? 200 : 401]);
    }
  }
  await locked.server.close();
});
