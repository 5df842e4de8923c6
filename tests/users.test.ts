import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import WebSocket from "ws";
import { Users } from "../serve/app/users.ts";
import { openStore } from "../serve/store/index.ts";
import { until } from "./serve_fake.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";
import { MODEL } from "./support/fake_chat.ts";

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const ask = { user_id: "cy", query: "once upon", params: { temperature: 0, max_tokens: 2 } };

describe("users of a server", () => {
  let server: ChatServer;
  let eve: Record<string, string>;
  beforeAll(async () => {
    server = await chatServer("users", "multi");
    const { users } = await server.host.open();
    eve = bearer((await users.addKey((await users.add("eve", "admin")).id)).token);
  });
  afterAll(() => server.server.close(0));

  it("without a key of the server, its other routes want a token too, and health is open", async () => {
    const asked = { model: MODEL, prompt: "a", max_tokens: 1 };
    const routes = [
      ["GET", "/v1/models", undefined],
      ["GET", "/metrics", undefined],
      ["POST", "/v1/completions", asked],
      ["POST", "/tokenize", { model: MODEL, prompt: "a" }],
    ] as const;
    for (const [method, route, body] of routes) {
      for (const headers of [
        {},
        bearer("kiln-wrong"),
        { cookie: `kiln_session=${eve.authorization!.slice(7)}` },
      ]) {
        const refused = await server.ask(method, route, body, headers as Record<string, string>);
        expect(refused.status, route).toBe(401);
        expect(refused.body.error.code).toBe("invalid_api_key");
      }
      expect((await server.ask(method, route, body, eve)).status, route).toBe(200);
      const key = { "x-api-key": eve.authorization!.slice(7) };
      expect((await server.ask(method, route, body, key)).status, route).toBe(200);
    }
    for (const route of ["/health", "/ready", "/version"])
      expect((await server.ask("GET", route)).status).toBe(200);
  });

  it("an admin makes, lists, disables and enables them; others do not learn who there is", async () => {
    const made = await server.ask("POST", "/api/users", { name: "cy" }, eve);
    expect(made.status).toBe(201);
    const cy = bearer(made.body.token);
    const { id } = made.body.user;
    expect((await server.ask("GET", "/api/me", undefined, cy)).body).toMatchObject({ id, role: "member" });
    const { users } = (await server.ask("GET", "/api/users", undefined, eve)).body;
    expect(users).toMatchObject([
      { name: "eve", role: "admin", disabled_at: null },
      { id, name: "cy", role: "member", disabled_at: null },
    ]);
    expect(JSON.stringify(users)).not.toContain("kiln-");
    for (const [method, route, body, status] of [
      ["GET", "/api/users", undefined, 403],
      ["POST", "/api/users", { name: "mallory", role: "admin" }, 403],
      ["PATCH", `/api/users/${id}`, { role: "admin" }, 404],
      ["POST", `/api/users/${id}/keys`, undefined, 404],
    ] as const)
      expect((await server.ask(method, route, body, cy)).status, route).toBe(status);
    const wrong = [
      [{ name: "cy" }, 409],
      [{ name: "c/y" }, 422],
      [{ name: "x", rolle: "admin" }, 422],
      [{ name: "x", role: "king" }, 422],
    ] as const;
    for (const [body, status] of wrong)
      expect((await server.ask("POST", "/api/users", body, eve)).status).toBe(status);

    const off = await server.ask("PATCH", `/api/users/${id}`, { disabled: true }, eve);
    expect(off.body).toMatchObject({ id, name: "cy", disabled_at: expect.any(Number) });
    expect((await server.ask("POST", "/api/chat", ask, cy)).status).toBe(401);
    await server.ask("PATCH", `/api/users/${id}`, { disabled: false }, eve);
    expect((await server.ask("POST", "/api/chat", ask, cy)).status).toBe(200);
    const second = await server.ask("POST", `/api/users/${id}/keys`, undefined, eve);
    expect((await server.ask("GET", "/api/me", undefined, bearer(second.body.token))).body.name).toBe("cy");
  });

  it("the last admin can be neither disabled nor made less", async () => {
    const { id } = (await server.ask("GET", "/api/me", undefined, eve)).body;
    for (const patch of [{ disabled: true }, { role: "member" }]) {
      const { status, body } = await server.ask("PATCH", `/api/users/${id}`, patch, eve);
      expect([status, body.error.code]).toEqual([409, "last_admin"]);
    }
    expect((await server.ask("GET", "/api/users", undefined, eve)).body.users[0]).toMatchObject({
      ...{ role: "admin", disabled_at: null },
    });
  });

  it("revoking a key ends the connections that came with it, at once, and no others", async () => {
    const first = (await server.ask("POST", "/api/keys", { name: "one" }, eve)).body;
    const second = (await server.ask("POST", "/api/keys", { name: "two" }, eve)).body;
    const sockets = [first, second].map(({ token }) => {
      const address = `${server.url.replace("http", "ws")}/api/chat/ws`;
      const socket = new WebSocket(address, "kiln.chat.v1", { headers: bearer(token) });
      const seen = { closed: 0, socket, welcomed: false };
      socket.on("message", () => (seen.welcomed = true));
      socket.on("close", (code) => (seen.closed = code));
      socket.on("open", () =>
        socket.send(JSON.stringify({ type: "hello", protocol: "kiln.chat.v1", client_id: "c", resume: [] })),
      );
      return seen;
    });
    await until(() => sockets.every(({ welcomed }) => welcomed));
    expect((await server.ask("DELETE", `/api/keys/${first.id}`, undefined, eve)).status).toBe(204);
    await until(() => sockets[0]!.closed !== 0);
    expect(sockets.map(({ closed }) => closed)).toEqual([4401, 0]);
    expect((await server.ask("GET", "/api/me", undefined, bearer(first.token))).status).toBe(401);
    for (const { socket } of sockets) socket.terminate();
  });

  it("DELETE /api/me/data removes what one person wrote, and says how much", async () => {
    const { users } = await server.host.open();
    const tokens = await Promise.all(
      ["ann", "bob"].map(async (name) => (await users.addKey((await users.add(name, "member")).id)).token),
    );
    const [ann, bob] = tokens.map(bearer);
    for (const [name, who] of [
      ["ann", ann],
      ["bob", bob],
    ] as const) {
      const { body } = await server.ask("POST", "/api/chat", { ...ask, user_id: name, query: "zebra" }, who);
      await server.ask("POST", "/api/feedback", { message_id: body.message_id, rating: 1 }, who);
      await server.ask("POST", "/api/conversations", { title: "empty" }, who);
    }
    const binned = (await server.ask("POST", "/api/conversations", { title: "bin" }, ann)).body;
    await server.ask("DELETE", `/api/conversations/${binned.id}`, undefined, ann);
    const { status, body } = await server.ask("DELETE", "/api/me/data", undefined, ann);
    expect(status).toBe(200);
    expect(body.deleted).toMatchObject({ conversation: 3, message: 2, feedback: 1, preference: 0 });
    const left = async (who: typeof ann) => [
      (await server.ask("GET", "/api/conversations", undefined, who)).body.conversations.length,
      (await server.ask("GET", "/api/search?q=zebra", undefined, who)).body.hits.length,
    ];
    expect(await left(ann)).toEqual([0, 0]);
    expect((await left(bob))[0]).toBe(2);
    expect((await left(bob))[1]).toBeGreaterThan(0);
    const store = await openStore(`sqlite:${server.file}`);
    const [{ words }] = await store.all<{ words: number }>("SELECT count(*) AS words FROM message_words");
    const [{ messages }] = await store.all<{ messages: number }>("SELECT count(*) AS messages FROM message");
    expect(words).toBe(messages);
    await store.close();
    expect((await server.ask("GET", "/api/me", undefined, ann)).status).toBe(200);
  });
});

describe("kiln user", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-users-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const kiln = async (...args: string[]) => {
    const env = { ...process.env, KILN_DATA_DIR: folder, DATABASE_URL: "" };
    const run = promisify(execFile)(process.execPath, ["bin/kiln.mjs", "user", ...args], { env });
    return run.then(
      ({ stdout }) => ({ code: 0, text: stdout.trim() }),
      (error) => ({ code: error.code, text: error.stderr.trim() }),
    );
  };

  it("adds users with a token that is printed once, and takes it away", async () => {
    const { text: token } = await kiln("add", "cy");
    expect(token).toMatch(/^kiln-[\w-]{43}$/);
    const store = await openStore(`sqlite:${path.join(folder, "kiln.db")}`);
    const users = new Users(store);
    expect(await users.byToken(token)).toMatchObject({ name: "cy", role: "member" });
    const { text: list } = await kiln("list");
    expect(list).toMatch(/^cy +member +since \d{4}-\d\d-\d\d$/);
    expect((await kiln("disable", "cy")).text).toMatch(/disabled$/);
    expect(await users.byToken(token)).toBeNull();
    await kiln("enable", "cy");
    const { text: other } = await kiln("token", "cy");
    expect(await users.byToken(other)).toMatchObject({ name: "cy" });
    expect(await kiln("add", "cy")).toEqual({
      ...{ code: 1, text: "kiln: there is a user cy already: choose another name" },
    });
    expect((await kiln("token", "nobody")).code).toBe(1);
    await store.close();
  });
});
