import { mkdtempSync, rmSync } from "node:fs";
import { connect as netConnect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import WebSocket from "ws";
import type { Application } from "../serve/app/application.ts";
import { hostOf } from "../serve/app/index.ts";
import type { ClientEvent, ModelList, ServerEvent } from "../serve/app/protocol.ts";
import { startServer, type TestServer, until } from "./serve_fake.ts";
import { type Script, scripted } from "./support/scripted_answers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-socket-"));
let server: TestServer;
let application: Application;
let source: Script;
const open: WebSocket[] = [];
beforeAll(async () => {
  ({ application, source } = await scripted(path.join(folder, "kiln.db"), { times: { flushMs: 5 } }));
  server = await startServer({ application: hostOf("single", async () => application) });
});
afterAll(async () => {
  for (const socket of open) socket.terminate();
  await server.server.close(0);
  rmSync(folder, { recursive: true, force: true });
});

const address = () => `${server.url.replace("http", "ws")}/api/chat/ws`;

/** A connection that keeps what it hears. */
async function connect(options: WebSocket.ClientOptions = {}) {
  const socket = new WebSocket(address(), "kiln.chat.v1", options);
  open.push(socket);
  const heard: ServerEvent[] = [];
  socket.on("message", (data) => heard.push(JSON.parse(String(data))));
  await new Promise((resolve, reject) => {
    socket.on("open", resolve);
    socket.on("error", reject);
  });
  const say = (event: ClientEvent | object) => socket.send(JSON.stringify(event));
  const text = () =>
    heard.reduce(
      (all, event) => (event.type === "chat.delta" ? all.slice(0, event.offset) + event.text : all),
      "",
    );
  const types = () => heard.map(({ type }) => type);
  const hello = { type: "hello", protocol: "kiln.chat.v1", client_id: "c", resume: [] };
  return {
    socket,
    heard,
    say,
    text,
    types,
    hello,
    of: (type: string) => heard.filter((one) => one.type === type) as never[],
  };
}

const send = (request_id: string, more: object = {}) => ({
  ...{ type: "chat.send", request_id, conversation_id: null, parent_id: null, text: "hi", model: "fake" },
  ...more,
});

it("welcomes, takes a message once, streams its answer merged, and ends it once", async () => {
  const one = await connect();
  const other = await connect();
  one.say(one.hello);
  await until(() => one.heard.length === 1);
  expect(one.heard[0]).toMatchObject({
    ...{
      type: "welcome",
      protocol: "kiln.chat.v1",
      user: { id: "local" },
      default_model: "tiny/fake",
      running: [],
    },
  });
  const next = source.started.length + 1;
  one.say(send("r1"));
  one.say(send("r1"));
  const answer = await source.next(next);
  await until(() => one.of("chat.accepted").length === 2);
  const [first, again] = one.of("chat.accepted");
  expect(again).toEqual(first);
  for (const piece of "abcdefghij") answer.say(piece);
  answer.end();
  await until(() => one.of("chat.done").length === 1 && other.of("chat.done").length === 1);
  expect(one.text()).toBe("abcdefghij");
  expect(one.of("chat.delta").length).toBeLessThan(4);
  expect(one.types().at(-1)).toBe("chat.done");
  // The user's other connection hears that there is an answer, not its text.
  expect(other.types()).toEqual(["chat.accepted", "conversation.update", "chat.done"]);
  expect(source.started).toHaveLength(next);
  one.say({ type: "ping", t: 5 });
  await until(() => one.of("pong").length === 1);
});

it("a connection that was lost goes on after what it has, and a second one watches", async () => {
  const one = await connect();
  const next = source.started.length + 1;
  one.say(send("r2"));
  const answer = await source.next(next);
  answer.say("one ");
  await until(() => one.text() === "one ");
  const { message_id, conversation_id } = one.of("chat.accepted")[0] as {
    message_id: string;
    conversation_id: string;
  };
  const seen = (one.of("chat.delta").at(-1) as unknown as { seq: number }).seq;
  one.socket.terminate();
  const watching = await connect();
  watching.say({ type: "watch", conversations: [conversation_id] });
  watching.say({ type: "ping", t: 1 });
  await until(() => watching.of("pong").length === 1);
  answer.say("two ");
  const back = await connect();
  back.say({ ...back.hello, resume: [{ message_id, after_seq: seen }] });
  await until(() => back.of("chat.delta").length === 1);
  expect(back.of("welcome")[0]).toMatchObject({ running: [{ conversation_id, message_id }] });
  answer.say("three");
  answer.end();
  await until(() => back.of("chat.done").length === 1 && watching.of("chat.done").length === 1);
  const deltas = (of: typeof back) =>
    of.of("chat.delta").map(({ offset, text }: { offset: number; text: string }) => [offset, text]);
  expect(deltas(back)[0]).toEqual([4, "two "]);
  expect(
    deltas(back)
      .map(([, text]) => text)
      .join(""),
  ).toBe("two three");
  expect(
    deltas(watching)
      .map(([, text]) => text)
      .join(""),
  ).toBe("two three");
  // After its end it comes from the row.
  const late = await connect();
  late.say({ type: "chat.resume", message_id, after_seq: 0 });
  await until(() => late.of("chat.done").length === 1);
  expect([late.text(), late.of("chat.done")]).toEqual(["one two three", back.of("chat.done")]);
});

it("stops an answer, and says of a bad frame what is wrong with it", async () => {
  const one = await connect();
  const next = source.started.length + 1;
  one.say(send("r3"));
  const answer = await source.next(next);
  await until(() => one.of("chat.accepted").length === 1);
  answer.say("half");
  one.say({
    type: "chat.stop",
    message_id: (one.of("chat.accepted")[0] as { message_id: string }).message_id,
  });
  await until(() => one.of("chat.done").length === 1);
  expect([one.text(), one.of("chat.done")[0]]).toEqual([
    "half",
    expect.objectContaining({ finish_reason: "abort" }),
  ]);
  expect(answer.stopped).toBe(1);
  one.socket.send("{");
  one.say({ type: "chat.sendd" });
  one.say(send("r4", { text: 5 }));
  one.say(send("r5", { conversation_id: "none" }));
  one.say({ type: "chat.resume", message_id: "none", after_seq: 0 });
  await until(() => one.of("chat.error").length === 5);
  const errors = one
    .of("chat.error")
    .map(({ code, request_id, message_id }) => [code, request_id, message_id]);
  expect(errors.sort()).toEqual(
    [
      ["invalid_event", null, null],
      ["invalid_event", null, null],
      ["invalid_event", "r4", null],
      ["not_found", "r5", null],
      ["not_found", null, "none"],
    ].sort(),
  );
});

it("is refused to pages of other origins, and to whom the server does not know", async () => {
  const status = (options: WebSocket.ClientOptions, url = address()) =>
    new Promise((resolve) => {
      const socket = new WebSocket(url, "kiln.chat.v1", options);
      socket.on("unexpected-response", (_request, response) => resolve(response.statusCode));
      socket.on("open", () => resolve(101));
      socket.on("error", () => {});
      open.push(socket);
    });
  expect(await status({ origin: "https://evil.example" })).toBe(403);
  expect(await status({ origin: server.url })).toBe(101);
  const locked = await startServer({
    apiKey: "k",
    application: { mode: "single", opened: null, open: async () => application, close: async () => {} },
  });
  const url = `${locked.url.replace("http", "ws")}/api/chat/ws`;
  expect(await status({}, url)).toBe(401);
  expect(await status({ headers: { authorization: "Bearer k" } }, url)).toBe(101);
  const many = await scripted(path.join(folder, "many.db"), { mode: "multi" });
  const multi = await startServer({ application: hostOf("multi", async () => many.application) });
  const socket = new WebSocket(`${multi.url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1");
  expect(await new Promise((resolve) => socket.on("close", resolve))).toBe(4401);
  for (const one of open) one.terminate();
  await multi.server.close(0);
  await locked.server.close(0);
});

it("tells every tab which models there are, once for changes that come together", async () => {
  const [one, two] = [await connect(), await connect()];
  for (const tab of [one, two]) tab.say(tab.hello);
  await until(() => two.of("welcome").length > 0);
  // The server's own pool, as its administration and its registry's follower change it.
  server.server.models.alias("prod", "tiny/fake");
  server.server.models.alias("stage", "tiny/fake");
  for (const tab of [one, two]) {
    await until(() => tab.of("model.update").length > 0);
    const { models, default_model } = tab.of("welcome")[0] as unknown as ModelList;
    expect(tab.of("model.update")).toMatchObject([{ type: "model.update", models, default_model }]);
  }
});

it("tells every tab which conversations there are", async () => {
  const [one, two] = [await connect(), await connect()];
  for (const tab of [one, two]) tab.say(tab.hello);
  await until(() => two.of("welcome").length > 0);
  const ask = async (method: string, route: string, json?: object) => {
    const body = json && { body: JSON.stringify(json), headers: { "content-type": "application/json" } };
    return fetch(server.url + route, { method, ...body });
  };
  const { id } = await (await ask("POST", "/api/conversations", { title: "Tales" })).json();
  await ask("PATCH", `/api/conversations/${id}`, { title: "Sagas", pinned: true });
  await ask("DELETE", `/api/conversations/${id}`);
  await ask("PATCH", `/api/conversations/${id}`, { deleted: false });
  for (const tab of [one, two]) {
    await until(() => tab.of("conversation.update").length === 3);
    const changes = tab.heard.filter(({ type }) => type.startsWith("conversation."));
    expect(changes).toMatchObject([
      { conversation: { id, title: "Tales", pinned: false } },
      { conversation: { id, title: "Sagas", pinned: true } },
      { type: "conversation.deleted", conversation_id: id },
      { type: "conversation.update", conversation: { id, title: "Sagas" } },
    ]);
  }
});

it("only the socket's own path changes the protocol: elsewhere the offer of another is not taken, and the body is read", async () => {
  const json = JSON.stringify({ model: "tiny/fake", prompt: "a", max_tokens: 1 });
  const offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n";
  // As Java's client begins: it stays with HTTP/1.1 on the same connection when nobody switches.
  const post = (more: string) =>
    `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${more}Content-Length: ${json.length}\r\n\r\n${json}`;
  const socket = netConnect(Number(new URL(server.url).port), "127.0.0.1");
  let text = "";
  socket.on("data", (data) => (text += data));
  const answers = () => text.match(/HTTP\/1.1 \d+/g) ?? [];
  socket.write(post(offer));
  await until(() => text.includes("usage"));
  socket.write(post(""));
  await until(() => answers().length === 2);
  expect(answers()).toEqual(["HTTP/1.1 200", "HTTP/1.1 200"]);
  socket.destroy();
});
