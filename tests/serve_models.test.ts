import { afterEach, describe, expect, it } from "vitest";
import { DeviceShare } from "../serve/engine/device_share.ts";
import { createServer, ModelPool } from "../serve/index.ts";
import { loadAdapterInto } from "../serve/lora.ts";
import type { TextModel } from "../serve/models.ts";
import { expected, fakeTokenizer, GREEDY, makeEngine, makeRequest, send } from "./serve_fake.ts";

const open: { close(ms?: number): Promise<void> }[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

/** A server of two models that differ in their sizes. */
async function twoModels() {
  const models = new ModelPool();
  const tokenizer = fakeTokenizer();
  const runnerOf = (maxModelLen: number) =>
    makeEngine({ vocabSize: tokenizer.vocabSize, maxModelLen }).engine.runner;
  models.addText({ name: "small", aliases: ["org/default"], runner: runnerOf(32), tokenizer });
  models.addText({ name: "large", runner: runnerOf(64), tokenizer });
  const server = createServer({ models });
  open.push(server);
  return { models, url: await server.listen({ port: 0 }) };
}

describe("several models in one server", () => {
  it("are listed with their aliases, and each answers to its names", async () => {
    const { url } = await twoModels();
    const list = (await send(`${url}/v1/models`)).body as { data: Record<string, unknown>[] };
    const shown = list.data.map(({ id, root, parent, max_model_len }) => [id, root, parent, max_model_len]);
    expect(shown).toEqual([
      ["small", "small", null, 32],
      ["org/default", "small", null, 32],
      ["large", "large", null, 64],
    ]);
    expect((await send(`${url}/v1/models/org%2Fdefault`)).body).toMatchObject({ id: "org/default" });
    const prompt = Array.from({ length: 40 }, () => 5);
    const ask = (model: string) =>
      send(`${url}/v1/completions`, { json: { model, prompt, max_tokens: 2, temperature: 0 } });
    expect((await ask("large")).body).toMatchObject({ model: "large", usage: { completion_tokens: 2 } });
    expect((await ask("org/default")).body.error).toMatchObject({ code: "context_length_exceeded" });
    expect((await ask("none")).body.error).toMatchObject({
      code: "model_not_found",
      message: "the model `none` does not exist; this server has `small`, `org/default`, `large`",
    });
  });

  it("have different names", async () => {
    const { models } = await twoModels();
    const tokenizer = fakeTokenizer();
    const { runner } = makeEngine().engine;
    for (const [name, ...aliases] of [["org/default"], ["new", "large"], ["new", "new"]])
      expect(() => models.addText({ name, aliases, runner, tokenizer })).toThrow(/already/);
    expect(models.get("new")).toBeUndefined();
  });
});

it("a model that a request holds is closed after it, under whatever name the request found it", async () => {
  const models = new ModelPool();
  const closed: string[] = [];
  const tokenizer = fakeTokenizer();
  for (const name of ["old", "new"]) {
    const { runner } = makeEngine({ vocabSize: tokenizer.vocabSize }).engine;
    models.addText({
      name,
      aliases: [`${name}-too`],
      runner,
      tokenizer,
      close: async () => void closed.push(name),
    });
  }
  const request = models.hold();
  const held = request.get("old-too")!;
  expect([request.get("old-too"), request.get("old")]).toEqual([held, held]);
  models.alias("old-too", "new");
  const removed = models.remove("old");
  expect([models.get("old"), models.get("old-too")?.name]).toEqual([undefined, "new"]);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(closed).toEqual([]);
  // What it starts now is answered, though nobody else finds the model any more.
  if (held.kind === "text") {
    const job = await held.frontend.start({ prompts: [[5]], max_tokens: 2, client: "one" }, () => {});
    await job.done;
  }
  request.release();
  await removed;
  expect(closed).toEqual(["old"]);
  expect(() => models.alias("x", "old")).toThrow("there is no model `old`");
  models.alias("new-too", null);
  expect([...models].map(([name]) => name)).toEqual(["old-too", "new"]);
});

it("a request that found its model before the server closes is answered, though it starts later; none after it is", async () => {
  const models = new ModelPool();
  const tokenizer = fakeTokenizer();
  const { engine } = makeEngine({ vocabSize: tokenizer.vocabSize });
  models.addWriter({ name: "one", engine, tokenizer });
  const request = models.hold();
  const before = models.hold();
  const held = request.get("one") as TextModel;
  await models.leave();
  // What was sent before the probes told is taken.
  const last = models.hold();
  expect([models.closing, last.get("one")?.name]).toEqual([true, "one"]);
  last.release();
  const closing = models.drain(10_000);
  expect(() => models.hold().get("one")).toThrow("the server is shutting down");
  // One that has found nothing yet is as one that comes now.
  expect(() => before.get("one")).toThrow("the server is shutting down");
  await new Promise((resolve) => setTimeout(resolve, 5));
  const job = await held.frontend.start({ prompts: [[5]], max_tokens: 2, client: "one" }, () => {});
  await job.done;
  request.release();
  await closing;
  expect([engine.state, engine.stats().finished.length]).toEqual(["draining", 1]);
  // What holds a model for longer than the server waits is cut off.
  const slow = new ModelPool();
  slow.addWriter({ name: "one", engine: makeEngine().engine, tokenizer });
  slow.hold().get("one");
  await slow.drain(5);
});

it("an adapter whose model is taken out while it is being loaded is taken out too", async () => {
  const models = new ModelPool();
  const tokenizer = fakeTokenizer();
  const { runner } = makeEngine({ vocabSize: tokenizer.vocabSize }).engine;
  const done: string[] = [];
  let arrive = () => {};
  const adapters = {
    add: () =>
      new Promise<void>((resolve) => {
        arrive = resolve;
      }),
    remove: async (name: string) => void done.push(name),
  };
  const close = async () => void done.push("base");
  models.addText({ name: "base", runner: Object.assign(runner, { adapters }), tokenizer, close });
  const loading = loadAdapterInto(models, { name: "poems", path: "poems.gguf" });
  const refused = expect(loading).rejects.toThrow("there is no model `base`");
  const removed = models.remove("base");
  await new Promise((resolve) => setImmediate(resolve));
  arrive();
  await refused;
  await removed;
  expect([...models]).toEqual([]);
  expect(done).toEqual([expect.stringMatching(/^poems /), "base"]);
});

it("a request that names no model gets the only one, whatever adapters that has", async () => {
  const models = new ModelPool();
  const tokenizer = fakeTokenizer();
  const { runner } = makeEngine({ vocabSize: tokenizer.vocabSize }).engine;
  const parent = models.addText({ name: "base", runner, tokenizer });
  const server = createServer({ models });
  open.push(server);
  models.addAdapter({ name: "poems", parent, adapter: "poems 1", root: "/poems", tokenizer });
  const url = await server.listen({ port: 0 });
  const { body } = await send(`${url}/tokenize`, { json: { prompt: "a" } });
  expect(body.count).toBeGreaterThan(0);
  expect((await send(`${url}/load`)).body).toEqual({ server_load: 0, running: 0, waiting: 0 });
  const { data } = (await send(`${url}/v1/models`)).body;
  expect(data[1]).toMatchObject({ id: "poems", root: "/poems", parent: "base" });
});

describe("the share of a device", () => {
  it("runs steps and batches one at a time, and text models answer as they would alone", async () => {
    const share = new DeviceShare();
    let running = 0;
    const alone = async () => {
      expect(++running).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
    };
    const engines = [makeEngine({ share }), makeEngine({ share })];
    for (const { runner } of engines) runner.before = alone;
    let done = false;
    const flood = (async () => {
      while (!done) await share.batch(alone);
    })();
    for (const { engine } of engines) {
      const request = makeRequest({ sampling: GREEDY, maxTokens: 6 });
      const answers: unknown[] = [];
      await new Promise<void>((resolve) =>
        engine.submit([
          {
            request,
            listener: ({ token, finish }) => {
              answers.push(token);
              if (finish) resolve();
            },
          },
        ]),
      );
      expect(answers).toEqual(expected(request, 32));
    }
    done = true;
    await flood;
  });
});
