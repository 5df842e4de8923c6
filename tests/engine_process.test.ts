import { ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { EnginePort } from "../serve/engine/port.ts";
import { createServer, type Server } from "../serve/index.ts";
import { EngineProcess } from "../serve/process/engine_process.ts";
import type { Report } from "../serve/process/messages.ts";
import { fakeTokenizer, send, until } from "./serve_fake.ts";
import {
  checkSums,
  endWith,
  isAlive,
  model,
  one,
  type Started,
  script,
  start,
  task,
} from "./support/engine_process.ts";
import { PATHS, TRICKS, trickRunner } from "./support/fake_engine_model.ts";

describe("a server whose engines are in another process", () => {
  let started: Started;
  let local: Server;
  let localUrl: string;
  beforeAll(async () => {
    started = await start();
    const tokenizer = fakeTokenizer();
    local = createServer({ modelName: model, runner: trickRunner(), tokenizer });
    localUrl = await local.listen({ port: 0 });
  });
  afterAll(async () => {
    const { pid } = started.engines;
    await started.close();
    await local.close(0);
    expect(isAlive(pid!)).toBe(false);
  });

  it("answers as one whose engines are in its own, to the last bit of a log probability", async () => {
    const prompt = "once upon a time";
    const common = { model, prompt, max_tokens: 12, logprobs: 3 };
    const bodies = [
      { ...common, temperature: 0 },
      { ...common, n: 3, temperature: 0.8, seed: 4, logit_bias: { 40: 2, 41: -100 } },
      { ...common, temperature: 1, seed: 1, repetition_penalty: 1.3, frequency_penalty: 0.4, top_p: 0.8 },
      { ...common, guided_regex: "(red|green) dogs? [0-9]{3}", seed: 3 },
      { ...common, allowed_token_ids: [30, 31, 32, 33], seed: 5 },
      { ...common, bad_words: ["dog", "a"], seed: 6 },
      { ...common, stop: ["e"], seed: 7, min_tokens: 2 },
      { ...common, prompt: Array.from({ length: 700 }, (_, i) => 5 + (i % 200)), seed: 8 },
    ];
    const answers = async (url: string) =>
      Promise.all(
        bodies.map(async (json) => {
          const { status, body } = await send(`${url}/v1/completions`, { json });
          expect([status, json]).toEqual([200, json]);
          return { choices: body.choices, usage: body.usage };
        }),
      );
    expect(await answers(started.url)).toEqual(await answers(localUrl));
    const remote = started.engine.stats();
    expect(remote.generatedTokens).toBe(local.engine.stats().generatedTokens);
    checkSums(started);
    await until(() => started.engine.stats().blocksUsed === 0);
  });

  it("hears of a step by one message, however many sequences it has", async () => {
    const { client, engine } = started;
    const steps = engine.stats().steps;
    // What the channel delivers, whoever listens.
    const emit = vi.spyOn(ChildProcess.prototype, "emit");
    const ask = { model, max_tokens: 40, temperature: 1, logprobs: 2, min_tokens: 40 };
    const [answers] = await Promise.all([
      Promise.all([5, 6, 7].map((seed) => client.completions.create({ ...ask, prompt: "once", seed, n: 4 }))),
      (async () => {
        for await (const _ of await client.completions.create({ ...ask, prompt: "a", stream: true }));
      })(),
    ]);
    const calls: readonly unknown[][] = [...emit.mock.calls];
    emit.mockRestore();
    const heard = calls.filter(([name]) => name === "message").map(([, reports]) => reports as Report[]);
    expect(answers.map(({ usage }) => usage!.completion_tokens)).toEqual([160, 160, 160]);
    const written = heard
      .map((reports) => reports.filter((report) => report.tell === "written"))
      .filter(({ length }) => length > 0);
    // One report of this model in a message, of one step or of none; all that a step wrote comes with it.
    expect(written.map((reports) => reports.length)).toEqual(written.map(() => 1));
    const told = written.map(([report]) => [report.steps.length, report.events.length]);
    expect(told.filter(([count]) => count > 1)).toEqual([]);
    expect(told.filter(([count, events]) => count === 0 && events > 0)).toEqual([]);
    expect(told.filter(([count]) => count === 1).length).toBe(engine.stats().steps - steps);
    expect(told.reduce((sum, [, events]) => sum + events, 0)).toBe(13 * 40);
    expect(Math.max(...told.map(([, events]) => events))).toBe(13);
    // The others answer what was sent: four requests.
    expect(told.filter(([count]) => count === 0).length).toBeLessThanOrEqual(4);
  });

  it("frees what a client that leaves has taken", async () => {
    const { client, engine } = started;
    const stream = await client.completions.create({
      model,
      prompt: "once",
      max_tokens: 15_000,
      stream: true,
    });
    for await (const _ of stream) break;
    await until(() => engine.stats().running === 0 && engine.stats().blocksUsed === 0);
    // It did not go on to its end, where its blocks would be free too.
    expect(engine.stats().generatedTokens).toBeLessThan(15_000);
    expect(engine.stats().steps).toBeLessThan(15_000);
    checkSums(started);
  });

  /** Steps that an engine has done when this process, which was busy for a while, first hears of one. */
  async function stepsWhileBusy(url: string, engine: EnginePort): Promise<number> {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
    const stream = await client.completions.create({ model, prompt: "a", max_tokens: 15_000, stream: true });
    for await (const _ of stream) break;
    const before = engine.stats().steps;
    for (const end = performance.now() + 300; performance.now() < end; );
    await until(() => engine.stats().steps > before);
    const during = engine.stats().steps - before;
    await until(() => engine.stats().running === 0);
    return during;
  }

  it("goes on computing while this process is busy", async () => {
    const here = await stepsWhileBusy(localUrl, local.engine);
    const apart = await stepsWhileBusy(started.url, started.engine);
    expect(apart).toBeGreaterThan(4 * here);
  });

  it("knows how long the queue is before the other process does", async () => {
    const small = await start({ queuedRequests: 2 });
    // All of one turn of the loop: nothing has come back in between.
    const { engine } = small;
    engine.submit([one("1")]);
    engine.submit([one("2")]);
    expect(() => engine.submit([one("3")])).toThrow("2 requests are waiting already");
    await until(() => engine.stats().finished.length === 2);
    engine.submit([one("3")]);
    await until(() => engine.stats().finished.length === 3);
    checkSums(small);
    await small.server.close(10_000);
    expect(() => engine.submit([one("4")])).toThrow("shutting down");
    await small.engines.close();
  });
});

describe("when the process of the engines ends", () => {
  let started: Started;
  beforeAll(async () => {
    started = await start({ stepMs: 400 });
  });
  afterAll(() => started.close());

  it("F35: all its requests end with an error, and another goes on", () => endWith("die", started));

  it("F15: a step that takes too long ends it", () => endWith("hang", started));

  it("says what happened, a line each", () => {
    const [died, ready, hung] = started.lines;
    expect(died).toBe("the process of the engines ended (SIGKILL); starting another");
    expect(ready).toMatch(/another process of the engines is ready after \d+\.\d s/);
    expect(hung).toBe("the process of the engines ended (a step took too long); starting another");
  });
});

describe("the start of a process", () => {
  it("tells why a model cannot be loaded", async () => {
    const engines = new EngineProcess({ script });
    await expect(engines.load(task(PATHS.refused))).rejects.toMatchObject({
      message: "there is no such model",
      code: "model_not_found",
    });
    await expect(engines.load(task(PATHS.dies))).rejects.toThrow("the process of the engines ended: SIGKILL");
    // Nothing was lost with it.
    expect((await engines.load(task())).loaded.kind).toBe("text");
    await engines.close();
    await expect(engines.load(task("other"))).rejects.toThrow("the process of the engines ended");
  });

  it.each([
    ["at rest", []],
    ["in a call that does not return", [TRICKS.block]],
  ])("leaves no process behind when its parent is killed, %s", async (_, prompt) => {
    const program = `
      import { register } from "tsx/esm/api";
      register();
      const { EngineProcess } = await import(${JSON.stringify(new URL("../serve/process/engine_process.ts", import.meta.url).href)});
      const engines = new EngineProcess({ script: ${JSON.stringify(script)} });
      const { port } = await engines.load(${JSON.stringify(task())});
      const request = ${JSON.stringify(one("stuck", [...prompt]).request)};
      if (request.prompt.length > 0) port.submit([{ request, listener: () => {} }]);
      // By then it is in its loop.
      setTimeout(() => console.log(engines.pid), 300);
    `;
    const parent = spawn(process.execPath, ["--input-type=module", "-e", program], {
      cwd: new URL("..", import.meta.url).pathname,
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = await once(parent.stdout, "data");
    const pid = Number(String(line));
    expect(isAlive(pid)).toBe(true);
    parent.kill("SIGKILL");
    await until(() => !isAlive(pid));
  });
});
