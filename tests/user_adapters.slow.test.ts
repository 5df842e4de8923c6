import path from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { loadModel } from "../models/formats/hf_directory.ts";
import { addModel } from "../models/registry/describe.ts";
import { Registry } from "../models/registry/registry.ts";
import { FineTuneServer } from "./support/fine_tune_server.ts";
import { writeAdapter } from "./support/tiny_adapters.ts";

/** Fifty people with models of their own on one server that has room for eight adapters at a time. */

const PEOPLE = 50;
const made = new FineTuneServer();
const names = Array.from({ length: PEOPLE }, (_, i) => `p${i}`);
beforeAll(async () => {
  for (const [name, value] of Object.entries(made.env)) vi.stubEnv(name, value);
  await made.open("single", 8);
  const registry = new Registry();
  const { model } = await loadModel(made.base);
  for (const [i, name] of names.entries()) {
    // Of the same layers, and other values: `writeAdapter` fills them by the length of the name.
    const config = { r: 2, lora_alpha: 1 + i, target_modules: ["q_proj", "up_proj", "down_proj"] };
    const folder = await writeAdapter(model as never, config, made.folder, name);
    const { version } = await addModel(`user-${name}`, folder, { registry, base: made.base });
    await registry.alias(`user-${name}`, "live", version);
  }
  model.dispose();
}, 240_000);
afterAll(async () => {
  await made.close();
  vi.unstubAllEnvs();
}, 30_000);

const answer = async (user_id: string) => {
  const params = { max_tokens: 10, temperature: 0 };
  const { status, body } = await made.ask("POST", "/api/chat", {
    user_id,
    query: "Once upon a time",
    params,
  });
  expect([status, body.model]).toEqual([200, `user-${user_id}`]);
  return body.response as string;
};

it("each is answered by their own, alone or all at once, in whatever order", async () => {
  const alone: string[] = [];
  for (const name of names) alone.push(await answer(name));
  expect(new Set(alone).size).toBeGreaterThan(PEOPLE / 2);
  // More at once than there is room for: the rest are told to try again.
  const shuffled = [...names].sort((a, b) => (a.at(-1)! < b.at(-1)! ? -1 : 1));
  for (let at = 0; at < shuffled.length; at += 8) {
    const group = shuffled.slice(at, at + 8);
    const together = await Promise.all(group.map(answer));
    expect(together).toEqual(group.map((name) => alone[names.indexOf(name)]));
  }
}, 300_000);

it("a new version answers from the next question on, and the old one is put away", async () => {
  const registry = new Registry();
  const before = await answer("p1");
  const other = path.join(made.folder, "p40");
  const { version } = await addModel("user-p1", other, { registry, base: made.base });
  await registry.alias("user-p1", "live", version);
  const [after, of40] = [await answer("p1"), await answer("p40")];
  expect(after).toBe(of40);
  expect(after).not.toBe(before);
});
