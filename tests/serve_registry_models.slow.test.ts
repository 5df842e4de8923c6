import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM, tinyllmConfig } from "../models/index.ts";
import { addModel } from "../models/registry/describe.ts";
import { Registry } from "../models/registry/registry.ts";
import { Administration } from "../serve/administration.ts";
import { createServer, ModelPool, type Server } from "../serve/index.ts";
import { CacheBudget, loadInto } from "../serve/loading.ts";
import { RegistryFollower } from "../serve/registry_follower.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-switch-"));
const registry = new Registry(join(folder, "registry"));
const [clientCount, switches, tokens] = [64, 100, 6];
let server: Server;
let follower: RegistryFollower;
let url: string;
const said: string[] = [];

beforeAll(async () => {
  await openDevice();
  const tokenizer = new Tokenizer(
    trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 280, special_tokens: ["<|end|>"] }),
    { tokenizer_config: { eos_token: "<|end|>" } },
  );
  for (const seed of [1, 2]) {
    const config = tinyllmConfig({
      ...{ vocab_size: 280, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2 },
      ...{ num_key_value_heads: 2, max_position_embeddings: 64, initializer_range: 0.2 },
    });
    const model = new LlamaForCausalLM(config).init(seed);
    await model.savePretrained(join(folder, `${seed}`), tokenizer);
    model.dispose();
    await addModel("chat", join(folder, `${seed}`), { registry });
  }
  await registry.alias("chat", "prod", 1);
  const models = new ModelPool();
  const settings = { dtype: "f32", maxSequences: clientCount, maxBatchedTokens: clientCount } as const;
  const budget = new CacheBudget(64 * 2 ** 20);
  budget.share(["chat@1"], [8 * 2 ** 20], 1);
  const { path } = await registry.find("chat@1");
  const source = { name: "chat@1", aliases: ["chat"], path };
  await loadInto(models, source, settings, budget.of("chat@1"));
  const switcher = new Administration({ models, settings, budget, folders: [] });
  follower = new RegistryFollower({ registry, switcher, say: (line) => said.push(line), everyMs: 5 });
  await follower.add({ ...source, version: "chat@1", follows: "chat@prod" });
  server = createServer({ models });
  url = await server.listen({ port: 0 });
}, 60_000);
afterAll(async () => {
  await follower.close();
  await server.close(0);
  rmSync(folder, { recursive: true, force: true });
});

/** What a stream says, and its status. */
async function ask(model = "chat"): Promise<{ status: number; text: string }> {
  const json = { model, prompt: "Once upon a time", max_tokens: tokens, temperature: 0, stream: true };
  const answer = await fetch(`${url}/v1/completions`, {
    ...{ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(json) },
  });
  const events = (await answer.text()).split("\n").filter((line) => line.startsWith("data: {"));
  return {
    status: answer.status,
    text: events.map((line) => JSON.parse(line.slice(6)).choices[0]?.text ?? "").join(""),
  };
}

it("64 clients of real models notice nothing of 100 switches: each stream is one version's", async () => {
  const running = follower.run();
  const moveTo = async (version: number) => {
    const before = said.length;
    await registry.alias("chat", "prod", version);
    // Until the other has taken its place and the one before has gone.
    await expect.poll(() => said.length, { timeout: 30_000, interval: 2 }).toBeGreaterThan(before);
  };
  const first = await ask();
  await moveTo(2);
  const second = await ask();
  expect(second.text).not.toBe(first.text);
  let switching = true;
  const answers: { status: number; text: string }[] = [];
  const clients = Array.from({ length: clientCount }, async () => {
    while (switching) answers.push(await ask());
  });
  for (let i = 0; i < switches; i++) await moveTo((i % 2) + 1);
  switching = false;
  await Promise.all(clients);
  await follower.close();
  await running;
  expect(answers.filter(({ status }) => status !== 200)).toEqual([]);
  expect([...new Set(answers.map(({ text }) => text))].sort()).toEqual([first.text, second.text].sort());
  expect(answers.length).toBeGreaterThan(switches);
  expect(said.filter((line) => line.includes("stays on"))).toEqual([]);
}, 240_000);
