import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { FineTuneServer } from "./support/fine_tune_server.ts";
import { lessonsOf } from "./support/lessons.ts";

/** Section 7.5 and 7.6 of the design on a real server: a file, a fine-tune of the seed's form, an answer by its adapter. */

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
const chat = async (user_id: string, query: string, more: object = {}) =>
  server.ask("POST", "/api/chat", { user_id, query, params, ...more });
const baseHash = () =>
  createHash("sha256")
    .update(readFileSync(path.join(server.base, "model.safetensors")))
    .digest("hex");

it("a file becomes an adapter that answers its user at once, and nobody else", async () => {
  const question = "Tell me story 3 of the day";
  const before = await chat("12345", question);
  const untouched = baseHash();
  await server.upload("12345", "lessons.csv", lessonsOf("Once a zebra ran away."));
  const started = await server.ask("POST", "/api/fine-tune", {
    user_id: "12345",
    parameters: { epochs: 50, learning_rate: 0.01, rank: 16 },
  });
  expect(started.status, started.text).toBe(202);
  expect(started.body.estimate).toMatchObject({ examples: 24 });
  const job = await server.ended(started.body.job_id, "12345");
  expect(job, JSON.stringify(await server.events(job.id, "12345"))).toMatchObject({
    ...{ state: "succeeded", progress: 1, error: null },
    result: { version: "user-12345@1", base: server.base },
  });
  expect(job.result!.loss.last!).toBeLessThan(job.result!.loss.first! - 1);
  expect(baseHash()).toBe(untouched);
  const after = await chat("12345", question);
  expect(after.body).toMatchObject({ model: "user-12345" });
  expect(after.body.response).not.toBe(before.body.response);
  expect(after.body.response).toContain("zebra");
  for (const other of ["local", "99"]) {
    const { body } = await chat(other, question);
    expect([body.model, body.response]).toEqual(["base", before.body.response]);
    expect((await chat(other, question, { model: "user-12345" })).status).toBe(404);
  }
}, 300_000);
