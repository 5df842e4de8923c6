import OpenAI from "openai";
import { expect } from "vitest";
import type { EngineListener } from "../../serve/engine/port.ts";
import { createServer, ModelPool } from "../../serve/index.ts";
import type { Limits } from "../../serve/limits.ts";
import { EngineProcess } from "../../serve/process/engine_process.ts";
import type { RemoteEngine } from "../../serve/process/remote_engine.ts";
import { checkEnvelope, fakeTokenizer, makeRequest, send, until } from "../serve_fake.ts";
import { TRICKS, type Trick } from "./fake_engine_model.ts";

/** The engines in a process of their own, over fake models that end or hang it on request. */
export const script = new URL("./fake_engine.mjs", import.meta.url).pathname;
export const model = "tiny";
export const task = (path = "fake") => ({
  model: path,
  path,
  settings: { dtype: "f32" as const },
  cacheBytes: 0,
});

/** A server whose engines are in another process. */
export async function start(limits: Partial<Limits> = {}) {
  const lines: string[] = [];
  const engines = new EngineProcess({ script, limits, say: (line) => lines.push(line), onError: () => {} });
  const { port } = await engines.load(task());
  const models = new ModelPool({ limits: { keepAliveMs: 120_000, ...limits } });
  models.addWriter({ name: model, engine: port as RemoteEngine, tokenizer: fakeTokenizer() });
  const server = createServer({ models });
  const url = await server.listen({ port: 0 });
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const close = async () => {
    await server.close(0);
    await engines.close();
  };
  return { engines, engine: server.engine, server, url, client, lines, close };
}

export type Started = Awaited<ReturnType<typeof start>>;

export const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** All that was accepted has ended, runs or waits. */
export function checkSums({ engine }: Started) {
  const { accepted, finished, running, waiting } = engine.stats();
  const ended = Object.values(finished).reduce((sum, count) => sum + count, 0);
  expect(ended + running + waiting).toBe(accepted);
}

/** A request of a client for one more token. */
export const one = (id: string, prompt = [5], client = "a", listener: EngineListener = () => {}) => ({
  request: makeRequest({ id, client, prompt, maxTokens: 2 }),
  listener,
});

const health = async (url: string) => (await send(`${url}/health`)).status;

const ask = { model, prompt: "once upon a time", max_tokens: 20, temperature: 0, logprobs: 1 };

/** Ends the process of the engines while it answers and others wait: all end with an error, and another one goes on. */
export async function endWith(trick: Trick, started: Started): Promise<void> {
  const { client, engine, engines, url } = started;
  const answer = await client.completions.create(ask);
  const counted = engine.stats();
  const { pid } = engines;
  const stream = await client.completions.create({ ...ask, max_tokens: 15_000, stream: true });
  const streamed = (async () => {
    for await (const _ of stream);
  })().catch((error) => error);
  // More than run at once, and alone.
  const others = [70, 1, 1].map((n) =>
    send(`${url}/v1/completions`, { json: { ...ask, n, temperature: 1, max_tokens: 15_000 } }),
  );
  await until(() => engine.stats().accepted === counted.accepted + 73);
  // One of the 70 makes way for another client.
  engine.submit([one(trick, [TRICKS[trick]], "another")]);
  await until(() => engines.pid !== pid);
  expect(await health(url)).toBe(503);
  for (const { status, body } of await Promise.all(others)) {
    expect([status, body.error.code]).toEqual([503, "engine_unavailable"]);
    checkEnvelope(body);
  }
  expect((await streamed).message).toMatch(/the model (stopped|does not respond)/);
  await until(() => engine.state === "ready");
  expect(await health(url)).toBe(200);
  expect(isAlive(pid!)).toBe(false);
  expect((await client.completions.create(ask)).choices).toEqual(answer.choices);
  checkSums(started);
  const now = engine.stats();
  for (const name of ["steps", "promptTokens", "generatedTokens", "accepted", "preemptions"] as const)
    expect([name, now[name]]).toEqual([
      name,
      Math.max(now[name], counted[name] + (name === "preemptions" ? 0 : 1)),
    ]);
  // With one of the 70 the request ends, and so do the other 69.
  expect(now.finished.error + now.finished.abort - counted.finished.error - counted.finished.abort).toBe(74);
}
