import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, expect } from "vitest";
import { Registry } from "../../models/registry/registry.ts";
import { createServer, ModelPool, type Server } from "../../serve/index.ts";
import { RegistryFollower, type Switcher } from "../../serve/registry_follower.ts";
import { fakeTokenizer, makeEngine } from "../serve_fake.ts";
import { facts } from "./registry_facts.ts";

// A server whose model the alias chat@prod of a registry decides, and clients that ask it all the time.

const root = mkdtempSync(join(tmpdir(), "kiln-follow-"));
afterAll(() => rmSync(root, { recursive: true }));

const tokenizer = fakeTokenizer();
/** Every token of an answer of a version is this letter. */
export const letterOf = (name: string) => String.fromCharCode("a".charCodeAt(0) + Number(name.split("@")[1]));

export let registry: Registry;
export let models: ModelPool;
let server: Server;
let url: string;
export let follower: RegistryFollower;
let count = 0;
export const said: string[] = [];
/** Names of models that were closed, in order. */
const closed: string[] = [];

async function load(name: string, aliases: readonly string[]): Promise<void> {
  const { runner } = makeEngine({ vocabSize: tokenizer.vocabSize }).engine;
  const [token] = await tokenizer.encode(letterOf(name), { addSpecialTokens: false });
  Object.assign(runner, { says: Array(12).fill(token) });
  models.addText({ name, aliases, runner, tokenizer, close: async () => void closed.push(name) });
}

/** As `Administration` does it, with models that need no device. */
const switcher: Switcher = {
  async replace(old, { name }) {
    await load(name, []);
    for (const [alias, model] of [...models])
      if (model.name === old && alias !== old) models.alias(alias, name);
  },
  unload: (name) => models.remove(name),
};

export async function addVersion(more: object = {}): Promise<void> {
  const source = join(root, `source-${count++}`);
  mkdirSync(source);
  writeFileSync(join(source, "config.json"), "{}");
  await registry.add("chat", source, { ...facts, ...more });
}

beforeEach(async () => {
  said.length = closed.length = 0;
  registry = new Registry(join(root, `registry-${count++}`));
  await addVersion();
  await addVersion();
  await registry.alias("chat", "prod", 1);
  models = new ModelPool();
  await load("chat@1", ["chat@prod"]);
  server = createServer({ models });
  url = await server.listen({ port: 0 });
  follower = new RegistryFollower({ registry, switcher, say: (line) => said.push(line), everyMs: 5 });
  const path = (await registry.find("chat@1")).path;
  await follower.add({
    name: "chat@1",
    aliases: ["chat@prod"],
    path,
    version: "chat@1",
    follows: "chat@prod",
  });
});
afterEach(async () => {
  await follower.close();
  await server.close(0);
});

export async function ask(max_tokens = 8): Promise<{ status: number; text: string }> {
  const json = { model: "chat@prod", prompt: "the", max_tokens, temperature: 0, stream: true };
  const answer = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(json),
  });
  const events = (await answer.text()).split("\n").filter((line) => line.startsWith("data: {"));
  const pieces = events.map((line) => JSON.parse(line.slice(6)).choices[0]?.text ?? "");
  return { status: answer.status, text: pieces.join("") };
}

/** Moves the alias while clients ask, each time as soon as the version before has gone. */
export async function switchUnderLoad(clientCount: number, switches: number): Promise<void> {
  const running = follower.run();
  let switching = true;
  const answers: { status: number; text: string }[] = [];
  const clients = Array.from({ length: clientCount }, async () => {
    while (switching) answers.push(await ask());
  });
  for (let i = 0; i < switches; i++) {
    await registry.alias("chat", "prod", (i % 2) + 1 === 1 ? 2 : 1);
    const before = closed.length;
    while (closed.length === before) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  switching = false;
  await Promise.all(clients);
  await follower.close();
  await running;
  expect(closed).toHaveLength(switches);
  expect(answers.filter(({ status }) => status !== 200)).toEqual([]);
  const texts = [...new Set(answers.map(({ text }) => text.replaceAll(" ", "")))].sort();
  expect(texts).toEqual([letterOf("chat@1").repeat(8), letterOf("chat@2").repeat(8)]);
  expect(answers.length).toBeGreaterThan(switches);
}
