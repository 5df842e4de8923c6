import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";
import { Application } from "../../serve/app/application.ts";
import type { AnswerSource } from "../../serve/app/chat/answers.ts";
import { hostOf } from "../../serve/app/index.ts";
import { ModelPool } from "../../serve/models.ts";
import { createServer } from "../../serve/server.ts";
import { openBlobs, openStore } from "../../serve/store/index.ts";
import type { AppRow } from "./index.ts";
import { append, slowestAppends } from "./writers.ts";

const MESSAGES = 5000;
const WRITERS = 4;
const WATCHERS = 100;
const PIECES = 500;
const BUSY_MS = 2;

const modelOf = (work: () => void): AnswerSource => ({
  models: () => ["instant"],
  versionOf: (model) => model,
  contextLength: () => 100_000,
  count: async (_, turns) => turns.length,
  async start({ params: { max_tokens = 1 } }, onText) {
    const write = async (): Promise<"stop"> => {
      for (let i = 0; i < max_tokens; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        work();
        onText("word ");
      }
      return "stop";
    };
    const usage = { prompt_tokens: 1, completion_tokens: max_tokens, cached_tokens: 0, estimated: false };
    return {
      done: new Promise((resolve) => setImmediate(() => resolve(write()))),
      usage: () => usage,
      stop: () => {},
    };
  },
});
/** A model that answers at once: what is measured is all but the model. */
const instant = modelOf(() => {});
const busy = modelOf(() => {
  const end = performance.now() + BUSY_MS;
  while (performance.now() < end);
});

async function openServer(source = instant) {
  const folder = mkdtempSync(join(tmpdir(), "kiln-bench-"));
  const store = await openStore(`sqlite:${join(folder, "kiln.db")}`);
  const application = await Application.open({
    ...{ source, store, mode: "single" },
    blobs: await openBlobs(`fs:${join(folder, "blobs")}`),
  });
  const server = createServer({
    models: new ModelPool(),
    application: hostOf("single", async () => application),
  });
  const url = await server.listen({ port: 0 });
  await application.users.ensure("local", "admin");
  const dispose = async () => {
    await server.close(0);
    rmSync(folder, { recursive: true, force: true });
  };
  return { application, store, url, dispose };
}

/** What a conversation costs a server besides its model (apps: section 9). */
export const chatRows: readonly AppRow[] = [
  { name: "append a message with its words, SQLite", target: 2, prepare: appending },
  { name: `the same, at p99 while ${WRITERS} processes do it`, target: 2, prepare: writing },
  { name: `newest 50 of ${MESSAGES.toLocaleString("en")} messages`, target: 30, prepare: reading },
  { name: "first token by /api/chat, of a model without a wait", target: 5, prepare: asking },
  { name: `a token to ${WATCHERS} watchers`, target: 5, prepare: watching },
  { name: `${1000 / BUSY_MS} tokens/s slower by ${WATCHERS} watchers, %`, target: 10, prepare: slowing },
  { name: "store, users and chats opened, at the first request", target: 100, prepare: opening },
];

async function appending() {
  const { application, store, dispose } = await openServer();
  const { id } = await application.chats("local").create({});
  let last: string | null = null;
  const items = 200;
  const run = async () => {
    for (let i = 0; i < items; i++) last = await store.transaction((tx) => append(tx, id, last, i));
  };
  return { items, run, dispose };
}

async function writing() {
  const { application, store, dispose } = await openServer();
  const { id } = await application.chats("local").create({});
  return { items: 1, run: () => slowestAppends(`sqlite:${store.name}`, id, WRITERS, 400), dispose };
}

async function reading() {
  const { application, store, dispose } = await openServer();
  const chats = application.chats("local");
  const { id } = await chats.create({});
  await store.transaction(async (tx) => {
    let last: string | null = null;
    for (let i = 0; i < MESSAGES; i++) last = await append(tx, id, last, i);
    await tx.run("UPDATE conversation SET leaf_id = ? WHERE id = ?", [last, id]);
  });
  return { items: 1, run: async () => void (await chats.messages(id, 50, null)), dispose };
}

async function asking() {
  const { url, dispose } = await openServer();
  const items = 20;
  const ask = async () => {
    const body = JSON.stringify({ user_id: "local", query: "Once upon a time", stream: true });
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${url}/api/chat`, { method: "POST", body, headers });
    let text = "";
    for await (const piece of answer.body!) text += Buffer.from(piece).toString();
    if (!text.includes("chat.delta")) throw new Error(`no answer: ${text}`);
  };
  const run = async () => {
    for (let i = 0; i < items; i++) await ask();
  };
  return { items, run, dispose };
}

async function watching() {
  const { ask, dispose } = await watched(instant, WATCHERS);
  return { items: PIECES, run: () => ask(PIECES), dispose };
}

/** By how many of a hundred an engine in this very thread is slower, which its own process is not. */
async function slowing() {
  const alone = await watched(busy, 1);
  const crowded = await watched(busy, WATCHERS);
  const timed = async (ask: (tokens: number) => Promise<void>) => {
    const start = performance.now();
    await ask(PIECES);
    return performance.now() - start;
  };
  const run = async () => {
    const base = await timed(alone.ask);
    return ((await timed(crowded.ask)) / base - 1) * 100;
  };
  const dispose = async () => {
    await alone.dispose();
    await crowded.dispose();
  };
  return { items: 1, run, dispose };
}

/** A server whose one conversation has `watchers`; `ask` ends when all of them have seen the end of an answer. */
async function watched(source: AnswerSource, watchers: number) {
  const { application, url, dispose } = await openServer(source);
  const { id } = await application.chats("local").create({ model: "instant" });
  let ends: () => void = () => {};
  const sockets: WebSocket[] = [];
  for (let i = 0; i < watchers; i++) sockets.push(await watcher(url, id, () => ends()));
  const ask = async (tokens: number) => {
    let left = watchers;
    const all = new Promise<void>((resolve) => {
      ends = () => {
        left -= 1;
        if (left === 0) resolve();
      };
    });
    const params = { max_tokens: tokens };
    const asked = { conversation_id: id, request_id: null, model: "instant", params };
    await application.conversing.send("local", { text: "go on", ...asked });
    await all;
  };
  const close = async () => {
    for (const socket of sockets) socket.terminate();
    await dispose();
  };
  return { ask, dispose: close };
}

async function watcher(url: string, id: string, end: () => void): Promise<WebSocket> {
  const socket = new WebSocket(`${url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1");
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  socket.send(JSON.stringify({ type: "hello", protocol: "kiln.chat.v1", client_id: "bench", resume: [] }));
  await new Promise((resolve) => socket.once("message", resolve));
  socket.send(JSON.stringify({ type: "watch", conversations: [id] }));
  socket.on("message", (data) => {
    if (String(data).includes('"chat.done"')) end();
  });
  return socket;
}

async function opening() {
  const run = async () => {
    const { dispose } = await openServer();
    await dispose();
  };
  return { items: 1, run };
}
