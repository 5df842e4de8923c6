import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import WebSocket from "ws";
import { appRoutes } from "../serve/http/api/app/index.ts";
import { LIMITS } from "../serve/limits.ts";
import { until } from "./serve_fake.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";

let server: ChatServer;
const data = mkdtempSync(path.join(tmpdir(), "kiln-secure-"));
beforeAll(async () => {
  vi.stubEnv("KILN_DATA_DIR", data);
  server = await chatServer("secure", "single");
});
afterAll(async () => {
  await server.server.close(0);
  vi.unstubAllEnvs();
  rmSync(data, { recursive: true, force: true });
});

const params = { max_tokens: 4, temperature: 0 };
const targetOf = (pattern: string) => pattern.replace(/:\w+/g, "ID").replace("*", "ID");

/** The status of a request with a Host of its own, which fetch does not let one choose. */
const statusFor = (method: string, target: string, headers: Record<string, string>) =>
  new Promise<number>((resolve, reject) => {
    request(`${server.url}${target}`, { method, headers }, (answer) => {
      answer.resume();
      resolve(answer.statusCode!);
    })
      .on("error", reject)
      .end();
  });

describe("S3: a name that somebody else's DNS gave this machine", () => {
  it("is refused on every route, the socket's too, whatever is asked", async () => {
    for (const { method, path: pattern } of appRoutes)
      for (const host of ["evil.example", "127.0.0.1.evil.example", "evil.example:80"])
        expect([pattern, await statusFor(method, targetOf(pattern), { host })]).toEqual([pattern, 403]);
    const socket = new WebSocket(`${server.url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1", {
      headers: { host: "evil.example" },
    });
    socket.on("error", () => {});
    const status = await new Promise((resolve) =>
      socket.on("unexpected-response", (_request, response) =>
        // Whoever keeps such a connection open would keep the server from ending.
        response.socket.once("close", () => resolve(response.statusCode)),
      ),
    );
    expect(status).toBe(403);
  });
});

describe("bodies", () => {
  it("that have a field too many, are of another kind or too large are refused by every route, in a line", async () => {
    let asked = 0;
    for (const { method, path: pattern, schema, example, bodyBytes } of appRoutes) {
      if (schema === undefined) continue;
      asked++;
      const fields = Object.keys(schema(LIMITS).shape);
      const misspelt = `${fields[0]}x`;
      const unknown = await server.ask(method, targetOf(pattern), { ...example, [misspelt]: 1 });
      expect([pattern, unknown.status, unknown.body.error.param]).toEqual([pattern, 422, misspelt]);
      expect(unknown.body.error.message).toContain(`did you mean ${fields[0]}?`);
      for (const body of [[], "text", 3]) {
        const { status, text } = await server.ask(method, targetOf(pattern), body);
        expect([pattern, status, text.includes("\n")]).toEqual([pattern, 422, false]);
      }
      const most = bodyBytes?.(LIMITS) ?? LIMITS.bodyBytes;
      const large = await server.ask(method, targetOf(pattern), { [fields[0]!]: "x".repeat(most) });
      expect([pattern, large.status]).toEqual([pattern, 413]);
    }
    expect(asked).toBeGreaterThan(15);
  });
});

describe("S10: what was said", () => {
  it("stands in the store, and in no log, no number, no event and no other file", async () => {
    const canary = "zebracanary";
    const written: string[] = [];
    const outputs = (["stdout", "stderr"] as const).map((name) =>
      vi.spyOn(process[name], "write").mockImplementation((text) => written.push(String(text)) > 0),
    );
    const said = `${canary} once upon`;
    const ask = { user_id: "local", query: said, system: said, params };
    const answer = await server.ask("POST", "/api/chat", ask);
    expect(answer.status).toBe(200);
    const { conversation_id: id, message_id } = answer.body;
    await server.ask("PATCH", `/api/conversations/${id}`, { title: said });
    await server.ask("POST", "/api/feedback", { message_id, rating: -1, correction: said });
    await server.ask("GET", `/api/search?q=${canary}`);
    await server.ask("POST", "/api/tokens", { model: "tiny/fake", text: said });
    // Refused in several ways, which say what is wrong and not what was said.
    for (const body of [
      { ...ask, model: "none" },
      { ...ask, conversation_id: "none" },
      { ...ask, query: 1 },
    ])
      expect((await server.ask("POST", "/api/chat", body)).text).not.toContain(canary);
    for (const output of outputs) output.mockRestore();
    expect(written.join("")).not.toContain(canary);
    expect((await server.ask("GET", "/metrics")).text).not.toContain(canary);
    const { store } = await server.host.open();
    expect(JSON.stringify(await store.all("SELECT * FROM event"))).not.toContain(canary);
    const files = [data, path.dirname(server.file)].flatMap((folder) =>
      readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((one) =>
        one.isFile() ? [path.join(one.parentPath, one.name)] : [],
      ),
    );
    const holding = files
      .filter((file) => readFileSync(file).includes(canary))
      .map((file) => path.basename(file));
    expect(holding.filter((name) => !/^kiln\.db(-wal)?$/.test(name))).toEqual([]);
    expect(holding.length).toBeGreaterThan(0);
  });
});

describe("S12: texts that would be code elsewhere", () => {
  it("are kept as they are, and change nothing else", async () => {
    const evil = "x'); DROP TABLE message; --";
    const { id } = (await server.ask("POST", "/api/conversations", { title: evil })).body;
    expect((await server.ask("GET", `/api/conversations/${id}`)).body.title).toBe(evil);
    for (const q of [evil, `" OR 1=1 --`, "a* NEAR(b)", "owner:x", "'&'|!"])
      expect((await server.ask("GET", `/api/search?q=${encodeURIComponent(q)}`)).status).toBe(200);
    for (const target of [
      `/api/conversations/${encodeURIComponent(evil)}`,
      `/api/conversations?before=${encodeURIComponent(`1_${evil}`)}`,
      `/api/conversations?user_id=${encodeURIComponent(evil)}`,
    ])
      expect((await server.ask("GET", target)).status).toBeGreaterThanOrEqual(400);
    const { store } = await server.host.open();
    expect((await store.all<{ n: number }>("SELECT count(*) AS n FROM message"))[0]!.n).toBeGreaterThan(0);
    // No header of an answer has what a client sent.
    const split = "a\r\nset-cookie: x=1";
    for (const target of [
      `/api/me/data?format=${encodeURIComponent(split)}`,
      `/api/conversations/${encodeURIComponent(split)}/export`,
    ]) {
      const { status, headers } = await server.ask("GET", target);
      expect([status >= 400, headers.get("set-cookie")]).toEqual([true, null]);
    }
  });
});

describe("S13: more than one client's share", () => {
  it("of connections is refused to one person, and those that are there stay and hear what happens", async () => {
    const closed: number[] = [];
    const open = async () => {
      const socket = new WebSocket(`${server.url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1");
      socket.on("close", (code) => closed.push(code));
      socket.on("error", () => {});
      await new Promise((resolve) => socket.on("open", resolve));
      socket.send(JSON.stringify({ type: "hello", protocol: "kiln.chat.v1", client_id: "c", resume: [] }));
      await new Promise((resolve) => socket.once("message", resolve).once("close", resolve));
      return socket;
    };
    const sockets: WebSocket[] = [];
    for (let i = 0; i < LIMITS.socketsPerUser + 3; i++) sockets.push(await open());
    expect(closed).toEqual([1013, 1013, 1013]);
    const heard = sockets
      .slice(0, LIMITS.socketsPerUser)
      .map(
        (one) =>
          new Promise((resolve) => one.once("message", (text) => resolve(JSON.parse(String(text)).type))),
      );
    await server.ask("POST", "/api/conversations", { title: "Tales" });
    expect(new Set(await Promise.all(heard))).toEqual(new Set(["conversation.update"]));
    sockets[0]!.close();
    await until(() => closed.length === 4);
    const again = await open();
    expect(again.readyState).toBe(WebSocket.OPEN);
    for (const socket of [...sockets, again]) socket.terminate();
  });

  it("of messages closes the connection that sends them, whose first ones are kept, and no other", async () => {
    const open = async () => {
      const socket = new WebSocket(`${server.url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1");
      await new Promise((resolve) => socket.once("open", resolve));
      socket.send(JSON.stringify({ type: "hello", protocol: "kiln.chat.v1", client_id: "c", resume: [] }));
      await new Promise((resolve) => socket.once("message", resolve));
      return socket;
    };
    const [flooding, other] = [await open(), await open()];
    const closed = new Promise((resolve) => flooding.once("close", resolve));
    const message = { type: "chat.send", conversation_id: null, parent_id: null, model: "tiny/fake", params };
    for (let i = 0; i < 10_000; i++)
      flooding.send(JSON.stringify({ ...message, request_id: `r${i}`, text: "flooding" }));
    expect((await server.ask("GET", "/api/conversations")).status).toBe(200);
    expect(await closed).toBe(1013);
    const { store } = await server.host.open();
    const kept = async () =>
      (await store.all<{ n: number }>("SELECT count(*) AS n FROM message WHERE content = 'flooding'"))[0]!.n;
    await expect.poll(kept).toBe(16);
    const heard = new Promise((resolve) =>
      other.on("message", (text) => String(text).includes('"pong"') && resolve(1)),
    );
    other.send(JSON.stringify({ type: "ping", t: 1 }));
    await heard;
    other.terminate();
  });
});
