import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { send, until } from "./serve_fake.ts";
import { killWriters } from "./support/killed_writers.ts";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** Signals to a process of `kiln serve`, and what it logs. */
const folder = mkdtempSync(join(tmpdir(), "kiln-faults-"));
const path = join(folder, "model");
const processes: ServeProcess[] = [];
beforeAll(async () => {
  await writeTinyModel(path);
  // The first server of a machine times its adapters and compiles for them, for minutes: no test has these in its time.
  const first = await start();
  await Promise.all(Array.from({ length: 4 }, () => ask(first, { ...long, max_tokens: 40 })));
  first.child.kill("SIGKILL");
}, 600_000);
afterEach(() => {
  for (const { child } of processes.splice(0)) child.kill("SIGKILL");
});
afterAll(() => rmSync(folder, { recursive: true }));

async function start(...args: string[]): Promise<ServeProcess> {
  const one = await serveProcess([`tiny=${path}`, ...args]);
  processes.push(one);
  return one;
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const long = { model: "tiny", prompt: "once upon", max_tokens: 1000, ignore_eos: true, stream: true };
const running = async ({ url }: ServeProcess) => (await send(`${url}/load`)).body.running as number;

const ask = async ({ url }: ServeProcess, json: object) =>
  (await send(`${url}/v1/completions`, { json })).text;

/** Streams that run when this resolves, and what becomes of them. */
async function streams(one: ServeProcess, count: number): Promise<Promise<string>[]> {
  const all = Array.from({ length: count }, () =>
    ask(one, long).catch((error: Error) => `cut: ${error.message}`),
  );
  for (let tries = 0; (await running(one)) < count; tries++) {
    if (tries > 300) throw new Error(`never so many: ${await Promise.race(all)}`);
    await pause(50);
  }
  return all;
}

it("F18: SIGTERM under load: not ready, nothing new, the answers that run are written, exit 0", async () => {
  const one = await start();
  const answers = await streams(one, 4);
  one.child.kill("SIGTERM");
  await until(() => one.output().includes("finishing the running answers"));
  const ready = await send(`${one.url}/ready`);
  // What clients send before they know is taken for a moment (`ModelPool.leave`).
  await pause(200);
  const refused = await send(`${one.url}/v1/completions`, { json: { ...long, max_tokens: 1 } });
  expect([ready.status, refused.status, refused.headers.get("connection")]).toEqual([503, 503, "close"]);
  for (const text of await Promise.all(answers)) expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  expect(await one.exited).toEqual({ code: 0, signal: null });
});

it("F18: what clients had sent before the signal is answered, though nobody had read it", async () => {
  const one = await start();
  await ask(one, { ...long, max_tokens: 1 });
  const json = JSON.stringify({ ...long, max_tokens: 5, stream: false });
  const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
  const request = `${head}Content-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`;
  const sockets = Array.from({ length: 10 }, () => connect(Number(new URL(one.url).port), "127.0.0.1"));
  const answers = sockets.map(async (socket) => (await text(socket)).slice(9, 12));
  await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.on("connect", resolve))));
  await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.write(request, resolve))));
  one.child.kill("SIGTERM");
  expect(await Promise.all(answers)).toEqual(sockets.map(() => "200"));
  expect(await one.exited).toEqual({ code: 0, signal: null });
});

it("F18: with --shutdown-timeout 0 what runs is cut off with an error, and the exit is 0", async () => {
  const one = await start("--shutdown-timeout", "0");
  const answers = await streams(one, 4);
  one.child.kill("SIGTERM");
  for (const text of await Promise.all(answers)) {
    expect(text).toContain('"code":"shutting_down"');
    expect(text).not.toContain("[DONE]");
  }
  expect(await one.exited).toEqual({ code: 0, signal: null });
});

it(
  "F20: kill -9 of 200 processes that write a model leaves a whole one each time",
  () => killWriters(mkdtempSync(join(folder, "writers-")), 200),
  300_000,
);

it.each<[NodeJS.Signals, NodeJS.Signals]>([
  ["SIGTERM", "SIGTERM"],
  ["SIGINT", "SIGINT"],
  ["SIGINT", "SIGTERM"],
  ["SIGTERM", "SIGINT"],
])("F19: %s, then %s, which ends the process at once", async (first, second) => {
  const one = await start();
  const answers = await streams(one, 2);
  one.child.kill(first);
  await until(() => one.output().includes("finishing the running answers"));
  expect(await running(one)).toBe(2);
  const from = performance.now();
  one.child.kill(second);
  expect(await one.exited).toEqual({ code: 130, signal: null });
  console.log(`ended after ${(performance.now() - from).toFixed()} ms`);
  for (const text of await Promise.all(answers)) expect(text).toMatch(/^cut: /);
});

it("F26: neither output of a server holds a prompt, an answer or a key", async () => {
  const canary = "canary7531";
  const one = await start("--api-key", `key-${canary}`);
  const headers = { authorization: `Bearer key-${canary}` };
  const fields = { model: "tiny", max_tokens: 4 };
  const messages = [{ role: "user", content: canary }];
  const bodies: [string, object, number][] = [
    ["/v1/completions", { ...fields, prompt: canary }, 200],
    ["/v1/completions", { ...fields, prompt: canary, echo: true, logprobs: 1, stream: true }, 200],
    ["/v1/chat/completions", { ...fields, messages }, 200],
    ["/v1/completions", { ...fields, prompt: canary, temperature: canary }, 400],
    ["/v1/completions", { ...fields, prompt: canary.repeat(1000) }, 400],
    [`/${canary}`, {}, 404],
  ];
  for (const [route, json, status] of bodies)
    expect((await send(one.url + route, { json, headers })).status).toBe(status);
  expect(
    (await send(`${one.url}/v1/models`, { headers: { authorization: `Bearer ${canary}` } })).status,
  ).toBe(401);
  one.child.kill("SIGTERM");
  await one.exited;
  expect(one.output()).toContain("finishing the running answers");
  expect(one.output()).not.toContain(canary);
});
