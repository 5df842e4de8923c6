import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { appRoutes } from "../serve/http/api/app/index.ts";
import { addJobEvent, openQueue } from "../serve/store/queue.ts";
import { fakeTokenizer, IDLE, idle, until } from "./serve_fake.ts";
import { type ChatServer, chatServer, eventsOf } from "./support/chat_server.ts";

const params = { temperature: 0, max_tokens: 6 };

describe("one user", () => {
  let server: ChatServer;
  beforeAll(async () => {
    server = await chatServer("one", "single");
  });
  afterAll(() => server.server.close(0));
  const say = (json: object) =>
    server.ask("POST", "/api/chat", { user_id: "local", query: "once upon", params, ...json });

  it("a server opens no store until somebody asks for what is kept in it", async () => {
    await server.ask("GET", "/v1/models");
    await server.ask("POST", "/api/chat", { model: "tiny/fake", stream: false, messages: [] });
    expect(existsSync(server.file)).toBe(false);
    expect((await server.ask("GET", "/api/me")).body).toEqual({
      ...{ id: "local", name: "local", role: "admin", mode: "single", settings: {} },
    });
    expect(existsSync(server.file)).toBe(true);
  });

  it("what a person chose is theirs on every browser, until they take it back", async () => {
    const change = (settings: object) => server.ask("PATCH", "/api/me/settings", settings);
    await change({ theme: "dark", params: { temperature: 0.5, seed: 3 }, system: "Be brief." });
    expect((await change({ system: null, consent: true })).body).toEqual({
      ...{ theme: "dark", params: { temperature: 0.5, seed: 3 }, consent: true },
    });
    const { settings } = (await server.ask("GET", "/api/me")).body;
    expect(settings).toEqual({ theme: "dark", params: { temperature: 0.5, seed: 3 }, consent: true });
    for (const [wrong, param] of [
      [{ theme: "pink" }, "theme"],
      [{ themes: "dark" }, "themes"],
      [{ params: { heat: 1 } }, "params"],
    ] as const) {
      const { status, body } = await change(wrong);
      expect([status, body.error.param]).toEqual([422, param]);
    }
    await server.ask("DELETE", "/api/me/data");
    expect((await server.ask("GET", "/api/me")).body.settings).toEqual({});
  });

  it("POST /api/chat answers in the seed's form, and again in its conversation", async () => {
    const first = await say({});
    expect(first.status).toBe(200);
    expect(first.body).toMatchObject({
      ...{ model: "tiny/fake", citations: [], cost_microusd: 0, trimmed: { messages: 0, tokens: 0 } },
      usage: { completion_tokens: expect.any(Number), estimated: false },
    });
    // The same as the model says by the other route.
    const messages = [{ role: "user", content: "once upon" }];
    const { body } = await server.ask("POST", "/v1/chat/completions", {
      model: "tiny/fake",
      messages,
      ...params,
    });
    expect(first.body.response).toBe(body.choices[0].message.content);
    expect(first.body.usage.prompt_tokens).toBe(body.usage.prompt_tokens);
    const { conversation_id } = first.body;
    const second = await say({ query: "a time", conversation_id });
    const listed = await server.ask("GET", `/api/conversations/${conversation_id}/messages`);
    expect(listed.body.messages.map((one: { content: string }) => one.content)).toEqual([
      ...["once upon", first.body.response, "a time", second.body.response],
    ]);
    expect(await server.ask("GET", "/api/conversations?limit=1")).toMatchObject({
      body: { conversations: [{ id: conversation_id, title: "once upon", running: false }] },
    });
  });

  it("streams numbered events that another request takes up after any of them", async () => {
    const streamed = await say({ stream: true });
    expect(streamed.headers.get("content-type")).toContain("text/event-stream");
    const [accepted, ...events] = eventsOf(streamed.text);
    expect(accepted).toMatchObject({ type: "chat.accepted", model: "tiny/fake" });
    const done = events.at(-1);
    expect(events.filter(({ type }) => type !== "chat.delta")).toEqual([done]);
    expect(done).toMatchObject({ type: "chat.done", finish_reason: "length" });
    expect(events.map(({ id }) => Number(id))).toEqual(events.map((_, i) => i + 1));
    const text = events.map((event) => event.text ?? "").join("");
    const at = `/api/messages/${accepted.message_id}/stream`;
    const again = eventsOf((await server.ask("GET", `${at}?after=1`)).text);
    expect(again.at(-1)).toEqual(done);
    expect(again[0].text).toBe(text);
    const last = await server.ask("GET", at, undefined, { "last-event-id": String(done.seq) });
    expect([last.status, last.text]).toEqual([204, ""]);
    expect((await server.ask("GET", `${at}?after=x`)).status).toBe(422);
  });

  it("goes on when its client leaves, and stops when it is told to, within a step", async () => {
    let release = () => {};
    server.runner.before = () =>
      new Promise<void>((resolve) => {
        release = resolve;
        setTimeout(resolve, 2);
      });
    const leaving = new AbortController();
    const json = { user_id: "local", query: "a", stream: true, params: { temperature: 0, max_tokens: 200 } };
    const response = await fetch(`${server.url}/api/chat`, {
      ...{ method: "POST", body: JSON.stringify(json), signal: leaving.signal },
      headers: { "content-type": "application/json" },
    });
    const { value } = await response.body!.getReader().read();
    const { message_id, conversation_id } = eventsOf(new TextDecoder().decode(value))[0];
    leaving.abort();
    const { generatedTokens } = server.engine.stats();
    await until(() => server.engine.stats().generatedTokens > generatedTokens + 5);
    expect((await server.ask("POST", `/api/messages/${message_id}/stop`)).status).toBe(204);
    const { steps } = server.runner;
    await until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
    expect(server.runner.steps - steps).toBeLessThanOrEqual(1);
    release();
    server.runner.before = () => {};
    const { body } = await server.ask("GET", `/api/conversations/${conversation_id}/messages`);
    expect(body.messages[1]).toMatchObject({ status: "stopped", finish_reason: "abort" });
    expect(body.messages[1].content).not.toBe("");
    const events = eventsOf((await server.ask("GET", `/api/messages/${message_id}/stream`)).text);
    expect(events.map(({ type }) => type)).toEqual(["chat.delta", "chat.done"]);
    // Its text is a normal answer: one can go on with it, or ask for another.
    const going = await server.ask("POST", `/api/messages/${message_id}/continue`);
    expect([going.status, going.body.message_id]).toEqual([202, message_id]);
    expect((await server.ask("POST", `/api/messages/${message_id}/stop`)).status).toBe(204);
    const other = await server.ask("POST", `/api/messages/${message_id}/regenerate`, {
      request_id: "r",
      params,
    });
    expect(other.status).toBe(202);
    await server.ask("GET", `/api/messages/${other.body.message_id}/stream`);
    const { siblings } = (await server.ask("GET", `/api/conversations/${conversation_id}/messages`)).body
      .messages[1];
    expect(siblings).toEqual([message_id, other.body.message_id]);
  });

  it("refuses with a status and a word, in OpenAI's envelope, and keeps nothing", async () => {
    const store = (await server.host.open()).store;
    const rows = async () => (await store.all<{ n: number }>("SELECT count(*) AS n FROM message"))[0]!.n;
    const before = await rows();
    const cases: [object, number, string | null, RegExp][] = [
      [{ messages: [{ role: "user", content: "x" }] }, 422, "messages", /two forms of this route/],
      [{ querry: "x" }, 422, "querry", /did you mean query/],
      [{ params: { temperatur: 1 } }, 422, "params", /no field temperatur/],
      [{ params: { temperature: 9 } }, 422, "params.temperature", /at most 2/],
      [{ query: 5 }, 422, "query", /must be a text/],
      [{ conversation_id: "none" }, 404, null, /no such conversation/],
      [{ parent_id: "none" }, 422, "parent_id", /send its conversation_id/],
      [{ notice_id: "none" }, 404, null, /no such notice/],
      [{ model: "none" }, 404, "model", /this server has `tiny\/fake`/],
      [{ user_id: "../x" }, 422, "user_id", /must be letters/],
      [{ query: "a b ".repeat(300) }, 400, "text", /tokens, but the model reads 256/],
    ];
    for (const [json, status, param, message] of cases) {
      const refused = await say(json);
      expect([refused.status, refused.body.error.param]).toEqual([status, param]);
      expect(refused.body.error.message).toMatch(message);
    }
    expect(await rows()).toBe(before);
    expect((await server.ask("PUT", "/api/conversations")).status).toBe(405);
  });

  it("edits, rates, searches, deletes; user_id has conversations of its own", async () => {
    const mine = (await say({ query: "find the walrus" })).body;
    const { messages } = (await server.ask("GET", `/api/conversations/${mine.conversation_id}/messages`))
      .body;
    const edited = await server.ask("PATCH", `/api/messages/${messages[0].id}`, { content: "find the seal" });
    expect([edited.status, edited.body.siblings.length]).toEqual([201, 2]);
    const rated = await server.ask("POST", "/api/feedback", { message_id: mine.message_id, rating: 1 });
    expect([rated.status, rated.body.rating]).toEqual([200, 1]);
    const hits = async (query = "") =>
      (await server.ask("GET", `/api/search?q=walrus${query}`)).body.hits.length;
    expect([await hits(), await hits("&user_id=12345")]).toEqual([2, 0]);
    const theirs = (await say({ user_id: "12345", query: "walrus" })).body;
    const at = `/api/conversations/${theirs.conversation_id}`;
    expect((await server.ask("GET", at)).status).toBe(404);
    expect((await server.ask("GET", `${at}?user_id=12345`)).status).toBe(200);
    expect((await server.ask("DELETE", `/api/conversations/${mine.conversation_id}`)).status).toBe(204);
    expect(await hits()).toBe(0);
    const back = await server.ask("PATCH", `/api/conversations/${mine.conversation_id}`, { deleted: false });
    expect([back.status, await hits()]).toEqual([200, 2]);
    expect((await server.ask("GET", "/api/models")).body).toMatchObject({
      ...{ default_model: "tiny/fake", models: [{ name: "tiny/fake", chat: true, context_length: 256 }] },
    });
    const made = await server.ask("POST", "/api/conversations", { system: "be brief" });
    expect([made.status, made.body.system]).toEqual([201, "be brief"]);
  });
});

it("a model without a chat template goes on writing what it is told", async () => {
  const server = await chatServer("plain", "single", { tokenizer: fakeTokenizer() });
  const { body } = await server.ask("POST", "/api/chat", { user_id: "local", query: "once upon", params });
  const plain = { model: "tiny/fake", prompt: "once upon", ...params };
  const { choices } = (await server.ask("POST", "/v1/completions", plain)).body;
  expect(body.response).toBe(choices[0].text);
  await server.server.close(0);
});

describe("S9: several users", () => {
  let server: ChatServer;
  const tokens: Record<string, string> = {};
  const owned: string[] = [];
  const secret = "the zebra of ada";
  const as = (name: string) => ({ authorization: `Bearer ${tokens[name]}` });
  beforeAll(async () => {
    server = await chatServer("many", "multi");
    const { users } = await server.host.open();
    for (const name of ["ada", "ben"])
      tokens[name] = (await users.addKey((await users.add(name, "member")).id)).token;
    const { id, token } = await users.addKey((await users.find("ben")).id);
    await users.revokeKey((await users.find("ben")).id, id);
    tokens.revoked = token;
    const json = { user_id: "ada", query: secret, params };
    const { body } = await server.ask("POST", "/api/chat", json, as("ada"));
    const { messages } = (
      await server.ask("GET", `/api/conversations/${body.conversation_id}/messages`, undefined, as("ada"))
    ).body;
    const { keys } = (await server.ask("GET", "/api/keys", undefined, as("ada"))).body;
    owned.push(body.conversation_id, ...[...messages, ...keys].map(({ id }: { id: string }) => id));
    owned.push(await fineTuneOfAda());
  });
  afterAll(() => server.server.close(0));

  /** One that has ended, so that nobody works on it. */
  const fineTuneOfAda = async () => {
    const { store } = await server.host.open();
    const [{ id: userId }] = await store.all<{ id: string }>(
      "SELECT id FROM user_account WHERE name = 'ada'",
    );
    const queue = await openQueue(store);
    const payload = { parameters: { base: secret }, recipe: "sft", settings: {}, files: [], name: secret };
    const id = await queue.add({ kind: "finetune", userId, payload });
    await queue.cancel(id);
    await addJobEvent(store, id, "info", secret);
    await queue.close();
    return id;
  };

  const everything = async () => {
    const { store } = await server.host.open();
    const rows: unknown[] = [];
    for (const table of ["conversation", "message", "feedback", "api_key", "job"])
      rows.push(
        await store.all(
          `SELECT * FROM ${table} WHERE user_id = (SELECT id FROM user_account WHERE name = 'ada') ORDER BY id`,
        ),
      );
    return JSON.stringify(rows);
  };

  it("no route gives or changes what is another's, whatever its ids are sent to", async () => {
    const before = await everything();
    let asked = 0;
    for (const { method, path: pattern, example } of appRoutes)
      for (const id of owned) {
        const json = example && JSON.parse(JSON.stringify(example).replace("MESSAGE", id));
        const target = `${pattern.replace(":id", id)}?q=zebra&before=${id}`;
        const { status, text } = await server.ask(method, target, json, as("ben"));
        const takesId = pattern.includes(":id") || JSON.stringify(json ?? {}).includes(id);
        if (takesId) expect([pattern, status]).toEqual([pattern, 404]);
        expect(text).not.toContain("zebra");
        for (const other of owned)
          expect(text.replaceAll(id, "")).not.toContain(other === id ? secret : other);
        asked++;
      }
    const chat = { user_id: "ben", query: "x", params };
    for (const [json, status] of [
      [{ ...chat, conversation_id: owned[0] }, 404],
      [{ ...chat, user_id: "ada" }, 403],
      [{ ...chat, user_id: "nobody" }, 403],
    ] as const)
      expect((await server.ask("POST", "/api/chat", json, as("ben"))).status).toBe(status);
    expect(await everything()).toBe(before);
    expect(asked).toBe(appRoutes.length * owned.length);
  });

  it("every route wants a token that is good, before anything else", async () => {
    for (const { method, path: pattern, example } of appRoutes.filter(({ open }) => !open)) {
      const target = pattern.replace(":id", owned[0]!);
      for (const headers of [
        {},
        { authorization: "Bearer kiln-none" },
        { cookie: "kiln_session=kiln-none" },
        { authorization: `Bearer ${tokens.revoked}` },
      ]) {
        const { status, body } = await server.ask(method, target, example, headers as never);
        expect([pattern, status, body.error.code]).toEqual([pattern, 401, "invalid_api_key"]);
      }
    }
    const chat = await server.ask("POST", "/api/chat", { user_id: "ada", query: "x" });
    expect([chat.status, chat.body.error.code]).toEqual([401, "invalid_api_key"]);
  });

  it("a browser logs in by a token and out again", async () => {
    const login = await server.ask("POST", "/api/login", { token: tokens.ada });
    expect([login.status, login.body.name]).toEqual([200, "ada"]);
    const cookie = login.headers.get("set-cookie")!;
    expect(cookie).toMatch(/HttpOnly; SameSite=Strict/);
    const browser = { cookie: cookie.split(";")[0]! };
    expect((await server.ask("GET", "/api/me", undefined, browser)).body.name).toBe("ada");
    expect((await server.ask("POST", "/api/logout", undefined, browser)).status).toBe(204);
    expect((await server.ask("GET", "/api/me", undefined, browser)).status).toBe(401);
  });
});
