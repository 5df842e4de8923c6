import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { FineTuneServer } from "./support/fine_tune_server.ts";
import { lessonsOf } from "./support/lessons.ts";

/** Sections 7.4 to 7.6 of the design on a real server: files, fine-tunes of the seed's form, answers by adapters. */

const made = new FineTuneServer();
let server: FineTuneServer;
beforeAll(async () => {
  for (const [name, value] of Object.entries(made.env)) vi.stubEnv(name, value);
  server = await made.open();
}, 240_000);
afterAll(async () => {
  await made.close();
  vi.unstubAllEnvs();
}, 30_000);

const params = { max_tokens: 12, temperature: 0 };
// What a document says would be quoted: this is about what the model says.
const chat = async (user_id: string, query: string, more: object = {}) =>
  server.ask("POST", "/api/chat", { user_id, query, params, retrieve: "off", ...more });
const baseHash = () =>
  createHash("sha256")
    .update(readFileSync(path.join(server.base, "model.safetensors")))
    .digest("hex");
const question = "Tell me story 3 of the day";
const teach = async (user_id: string, parameters: object) => {
  const started = await server.ask("POST", "/api/fine-tune", { user_id, parameters });
  expect(started.status, started.text).toBe(202);
  return started.body.job_id as string;
};
const stepsOf = (id: string): number => {
  const log = path.join(server.env.KILN_DATA_DIR, "jobs", id, "run/log.jsonl");
  if (!existsSync(log)) return 0;
  const lines = readFileSync(log, "utf8").trim().split("\n");
  return Math.max(0, ...lines.filter(Boolean).map((line) => JSON.parse(line).step as number));
};
const reaches = (id: string, step: number) =>
  expect.poll(() => stepsOf(id), { timeout: 120_000, interval: 20 }).toBeGreaterThanOrEqual(step);

it("a file becomes an adapter that answers its user at once, and nobody else", async () => {
  const before = await chat("12345", question);
  const untouched = baseHash();
  await server.upload("12345", "lessons.csv", lessonsOf("Once a zebra ran away."));
  const id = await teach("12345", { epochs: 12, learning_rate: 0.01, rank: 16 });
  const job = await server.ended(id, "12345");
  expect(job, JSON.stringify(await server.events(job.id, "12345"))).toMatchObject({
    ...{ state: "succeeded", progress: 1, error: null },
    result: { version: "user-12345@1", base: server.base },
  });
  expect(job.result!.loss.last!).toBeLessThan(job.result!.loss.first! - 1);
  expect(job.result!.validation_loss.best!).toBeLessThan(job.result!.validation_loss.first!);
  expect(job.result!.samples.before).not.toEqual(job.result!.samples.after);
  const told = (await server.events(id, "12345")).map(({ message }) => message);
  expect(told[0]).toBe("started");
  expect(new Set(told)).toEqual(new Set(["started", "step", "measured"]));
  expect(baseHash()).toBe(untouched);
  expect(existsSync(path.join(server.env.KILN_DATA_DIR, "jobs", id))).toBe(false);

  const after = await chat("12345", question);
  expect(after.body.model).toBe("user-12345");
  expect(after.body.response).not.toBe(before.body.response);
  expect(after.body.response).toContain("zebra");
  const { conversation_id } = after.body;
  const at = `/api/conversations/${conversation_id}/messages?user_id=12345`;
  expect((await server.ask("GET", at)).body.messages.at(-1).model_version).toBe("user-12345@1");
  const own = await chat("12345", question, { model: "base" });
  expect([own.body.model, own.body.response]).toEqual(["base", before.body.response]);
  const listed = async (user: string) =>
    (await server.ask("GET", `/api/models?user_id=${user}`)).body.models.map(({ name }: never) => name);
  expect([await listed("12345"), await listed("99")]).toEqual([["user-12345", "base"], ["base"]]);
}, 300_000);

it("code is learned and written again with its indentation", async () => {
  const code = "if a:\n    if b:\n        c\n\td";
  const lesson = (i: number) => ({
    messages: [
      { role: "user", content: `Write code ${i}` },
      { role: "assistant", content: code },
    ],
  });
  const lessons = Array.from({ length: 24 }, (_, i) => `${JSON.stringify(lesson(i))}\n`).join("");
  await server.upload("coder", "code.jsonl", lessons);
  const job = await server.ended(
    await teach("coder", { epochs: 20, learning_rate: 0.01, rank: 16 }),
    "coder",
  );
  expect(job.state, JSON.stringify(job.error)).toBe("succeeded");
  const more = { params: { max_tokens: 60, temperature: 0 } };
  const answer = await chat("coder", "Write code 7", more);
  expect(answer.body.response.replace(/^\n/, "")).toBe(code);
}, 300_000);

it("nobody else can ask for it, see it, or be told of what it learned", async () => {
  const canary = /zebra|user-12345/;
  for (const other of ["local", "99"]) {
    const { body } = await chat(other, question);
    expect(body.model).toBe("base");
    expect(body.response).not.toMatch(canary);
    const tried = [
      await chat(other, question, { model: "user-12345" }),
      await chat(other, question, { model: "user-12345@live" }),
      await chat(other, question, { model: "user-12345@1" }),
      await server.ask("POST", `/api/tokens?user_id=${other}`, { model: "user-12345", text: "a" }),
      await server.ask("POST", `/api/compare?user_id=${other}`, {
        models: ["base", "user-12345"],
        text: "a",
      }),
      await server.ask("POST", "/v1/completions", { model: "user-12345", prompt: "a" }),
      await server.ask("POST", "/v1/completions", { model: "user-12345@1", prompt: "a" }),
    ];
    const never = await chat(other, question, { model: "user-nobody" });
    expect(tried.map(({ status }) => status)).toEqual(tried.map(() => 404));
    expect(tried[0]!.text.replaceAll("12345", "nobody")).toBe(never.text);
  }
  for (const target of ["/v1/models", "/api/models", "/metrics", "/api/jobs", "/api/jobs?user_id=99"])
    expect((await server.ask("GET", target)).text).not.toMatch(canary);
});

/** Milliseconds to the first text of an answer. */
async function firstText(): Promise<number> {
  const body = {
    user_id: "99",
    query: `${question} and what came of it`,
    stream: true,
    params,
    retrieve: "off",
  };
  const begun = performance.now();
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${server.url}/api/chat`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
  });
  let [text, at] = ["", 0];
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (at === 0 && text.includes('"chat.delta"')) at = performance.now() - begun;
  }
  expect(text).toContain('"chat.done"');
  return at;
}

/** Of people who ask now and then: between them a run goes on. */
async function waits(count: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setTimeout(resolve, 130 + Math.random() * 150));
    times.push(await firstText());
  }
  return times;
}

it("waits between steps while somebody is answered", async () => {
  // bench/README.md has the figures of 200, which take a quiet machine: then the bar of the design is held to.
  const { KILN_REQUESTS: asked } = process.env;
  const count = Number(asked ?? 12);
  await waits(3);
  const alone = await waits(count);
  // Much, and slowly learned: it does not end meanwhile.
  await server.upload("many", "lessons.csv", lessonsOf("Once a hen came home.", 3000));
  const id = await teach("many", { epochs: 50, learning_rate: 1e-5, rank: 4 });
  await reaches(id, 2);
  const [from, beside] = [stepsOf(id), await waits(count)];
  const steps = stepsOf(id) - from;
  const p = (times: number[], share: number) =>
    times.toSorted((a, b) => a - b)[Math.ceil(share * times.length) - 1]!;
  const figures = (times: number[]) => [0.5, 0.95].map((share) => p(times, share).toFixed(1)).join(", ");
  console.log(
    `first token p50, p95: ${figures(alone)} ms alone, ${figures(beside)} ms beside ${steps} steps of a fine-tune`,
  );

  const long = { params: { max_tokens: 90, temperature: 1, seed: 1 }, retrieve: "off" };
  const before = stepsOf(id);
  // One after the other, with less than a moment between them.
  for (let i = 0; i < 3; i++) await chat("99", question, long);
  // The step that ran when the first came, and the log of the one before it.
  expect(stepsOf(id)).toBeLessThanOrEqual(before + 2);
  await reaches(id, before + 4);
  await server.ask("POST", `/api/jobs/${id}/cancel?user_id=many`);
  expect((await server.ended(id, "many", 20_000)).state).toBe("cancelled");
  expect(steps).toBeGreaterThan(count / 4);
  if (asked) expect(p(beside, 0.95)).toBeLessThanOrEqual(2 * p(alone, 0.95));
}, 300_000);

it("is cancelled with its work saved, and goes on from there", async () => {
  const id = await teach("12345", { epochs: 30, learning_rate: 0.005, rank: 4 });
  await reaches(id, 12);
  const asked = Date.now();
  const cancelled = await server.ask("POST", `/api/jobs/${id}/cancel?user_id=12345`);
  expect(cancelled.body).toMatchObject({ state: "running", cancelling: true });
  const job = await server.ended(id, "12345", 20_000);
  expect(job.state).toBe("cancelled");
  expect(job.finished_at! - asked).toBeLessThan(10_000); // the design's bar: it is killed before
  const checkpoints = readdirSync(path.join(server.env.KILN_DATA_DIR, "jobs", id, "run/checkpoints"));
  const resumed = await server.ask("POST", `/api/jobs/${id}/resume?user_id=12345`);
  const done = await server.ended(resumed.body.id, "12345");
  expect(done).toMatchObject({ state: "succeeded", resumes: id, result: { version: "user-12345@2" } });
  const first = (await server.events(done.id, "12345")).find(({ message }) => message === "step");
  expect(first!.data!.step).toBeGreaterThan(Number(checkpoints.at(-1)!.slice(5)) - 1);
}, 300_000);

it("deleting one's data removes jobs and adapters, with counts", async () => {
  const { body } = await server.ask("DELETE", "/api/me/data?user_id=12345");
  expect(body.deleted).toMatchObject({ adapter: 2, document: 1 });
  expect(body.deleted.job).toBeGreaterThanOrEqual(3);
  expect((await chat("12345", question)).body.model).toBe("base");
  const left = (folder: string): string[] =>
    existsSync(folder)
      ? readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((entry) => {
          const file = path.join(entry.parentPath, entry.name);
          return entry.isFile() && readFileSync(file).includes("zebra") ? [file] : [];
        })
      : [];
  const { KILN_DATA_DIR: data, KILN_REGISTRY: registry } = server.env;
  for (const folder of [path.join(data, "jobs"), path.join(data, "blobs"), registry])
    expect(left(folder)).toEqual([]);
  expect(existsSync(path.join(registry, "user-12345/1"))).toBe(false);
});
