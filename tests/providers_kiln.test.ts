import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ProviderSettings, readProviders } from "../serve/app/providers/config.ts";
import { install } from "../serve/app/providers/index.ts";
import { probe } from "../serve/app/providers/probe.ts";
import { Upstream } from "../serve/app/providers/upstream.ts";
import { fakeChatTokenizer, IDLE, idle, startServer, type TestServer, until } from "./serve_fake.ts";
import { type ChatServer, chatServer, eventsOf } from "./support/chat_server.ts";
import { FaultProvider, status } from "./support/fault_provider.ts";

/** Two kiln servers, of which one is a provider of the other. */
const folder = mkdtempSync(path.join(tmpdir(), "kiln-provider-"));
const file = path.join(folder, "providers.yaml");
const KEY = "sk-canary-0987654321";
let far: TestServer;
let near: ChatServer;
beforeAll(async () => {
  far = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 256, apiKey: [KEY] });
  process.env.KILN_TEST_FAR_KEY = KEY;
  writeFileSync(
    file,
    `providers:
  far:
    dialect: openai
    base_url: ${far.url}/v1
    key_env: KILN_TEST_FAR_KEY
    allow_private: true
    prefill: true
    models:
      remote: { model: tiny/fake, context_length: 256, prices: [{ input: 1000000, output: 2000000 }] }
routes:
  auto: { chain: [tiny/fake, remote], tau: 1 }
ensembles:
  best: { members: [tiny/fake, remote], n: 2, choose: rerank }
`,
  );
  near = await chatServer("near", "single", {}, (pool) => install(pool, readProviders(file)));
});
afterAll(async () => {
  await near.server.close(0);
  await far.server.close(0);
  rmSync(folder, { recursive: true });
});

const say = (json: object) =>
  near.ask("POST", "/api/chat", {
    user_id: "local",
    query: "once upon",
    params: { temperature: 0, max_tokens: 6 },
    ...json,
  });
const messages = [{ role: "user", content: "once upon" }];

/** Asks the far server itself. */
async function ask(json: object) {
  const answer = await fetch(`${far.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${KEY}` },
    body: JSON.stringify({ model: "tiny/fake", temperature: 0, max_tokens: 6, ...json }),
  });
  return (await answer.json()) as {
    choices: { message: { content: string } }[];
    usage: { prompt_tokens: number; completion_tokens: number };
  };
}

describe("kiln as a provider of kiln", () => {
  it("its model answers in a conversation as it does by its own route, tokens counted alike", async () => {
    const answer = await say({ model: "remote" });
    const { choices, usage } = await ask({ messages });
    expect(answer.body).toMatchObject({
      ...{ response: choices[0]!.message.content, model: "remote" },
      usage: {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        estimated: false,
      },
      cost_microusd: usage.prompt_tokens + 2 * usage.completion_tokens,
    });
  });

  it("goes on where an answer was cut: the two parts are what it says in one", async () => {
    const part = await say({ model: "remote" });
    const at = `/api/messages/${part.body.message_id}`;
    expect((await near.ask("POST", `${at}/continue`)).status).toBe(202);
    const events = eventsOf((await near.ask("GET", `${at}/stream?after=0`)).text);
    expect(events.at(-1)).toMatchObject({ type: "chat.done", provider: "far" });
    const { body } = await near.ask("GET", `/api/conversations/${part.body.conversation_id}/messages`);
    const { response: begun } = part.body;
    const { choices } = await ask({
      ...{ messages: [...messages, { role: "assistant", content: begun }] },
      ...{ add_generation_prompt: false, continue_final_message: true },
    });
    expect(body.messages.at(-1).content).toBe(begun + choices[0]!.message.content);
  });

  it("stopped here, it stops there", async () => {
    const streamed = say({ model: "remote", stream: true, params: { temperature: 0, max_tokens: 200 } });
    await until(() => far.engine.stats().running > 0);
    const list = await near.ask("GET", "/api/conversations?limit=1");
    const { leaf_id } = list.body.conversations[0];
    await near.ask("POST", `/api/messages/${leaf_id}/stop`);
    await streamed;
    await until(() => JSON.stringify(idle(far.engine)) === JSON.stringify(IDLE));
  });

  it("a route asks it where the model here is not sure, an ensemble takes the likelier of both", async () => {
    const events = eventsOf((await say({ model: "auto", stream: true })).text);
    expect(events.find(({ type }) => type === "chat.notice").notice).toMatchObject({
      kind: "routed",
      from: "tiny/fake",
      to: "remote",
    });
    expect(events.at(-1)).toMatchObject({ model: "remote", provider: "far" });
    const voted = eventsOf((await say({ model: "best", stream: true })).text);
    expect(voted.find(({ type }) => type === "chat.notice").notice).toEqual({
      ...{ kind: "voted", models: ["tiny/fake", "remote"], method: "rerank" },
    });
    expect(voted.at(-1)).toMatchObject({ type: "chat.done", model: "best" });
  });

  it("the lists name its models, and say nothing of its key", async () => {
    const { body } = await near.ask("GET", "/api/models");
    expect(body.models.map((one: { name: string; provider: string }) => [one.name, one.provider])).toEqual([
      ...[
        ["tiny/fake", "local"],
        ["remote", "far"],
        ["best", "ensemble"],
        ["auto", "route"],
      ],
    ]);
    const providers = await near.ask("GET", "/api/providers");
    expect(providers.body.providers).toEqual([
      {
        name: "far",
        dialect: "openai",
        base_url: `${far.url}/v1/`,
        models: ["remote"],
        key: "set",
        circuit: "closed",
      },
    ]);
    for (const text of [providers.text, JSON.stringify(body), (await near.ask("GET", "/metrics")).text])
      expect(text).not.toContain("canary");
  });
});

/** What `kiln provider test` prints, and its exit code. */
function test(name: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const args = ["bin/kiln.mjs", "provider", "test", name, "--providers", file];
  return new Promise((resolve) => {
    execFile(process.execPath, args, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
    );
  });
}

/** The same without a process. */
async function tried(base_url: string, key: string | null = null, key_env?: string) {
  const model = { task: "chat" as const, context_length: 256, fallback: [], prices: [] };
  const settings: ProviderSettings = {
    ...{ dialect: "openai", base_url, allow_private: true, prefill: false },
    ...{ models: { remote: { ...model, model: "tiny/fake" }, gone: model }, ...(key_env ? { key_env } : {}) },
  };
  const upstream = new Upstream("far", settings, key);
  const lines: string[] = [];
  for await (const { what, ok, detail } of probe(upstream, () => 0)) lines.push(`${what} ${ok} ${detail}`);
  upstream.close();
  return lines;
}

describe("kiln provider test", () => {
  it("a line each: reachable, key accepted, model there, first token", async () => {
    const { code, stdout } = await test("far");
    expect(stdout).toMatch(
      /^reachable +yes +\d+ ms\nkey accepted +yes +yes\nmodel remote +yes +there\nfirst token +yes +\d+ ms\n$/,
    );
    expect(code).toBe(0);
    const other = await test("fra");
    expect([other.code, other.stderr]).toEqual([2, `kiln: ${file} has no provider fra: it has far\n`]);
  });

  it("says at which step it fails", async () => {
    expect(await tried(`${far.url}/v1`, "wrong")).toEqual([
      "reachable true 0 ms",
      "key accepted false it is refused",
    ]);
    expect(await tried("http://127.0.0.1:9/v1")).toEqual([
      "reachable false far cannot be reached: nobody listens there",
    ]);
    const failing = await FaultProvider.start();
    failing.answers = [
      status(200, { data: [{ id: "tiny/fake" }] }),
      status(400, { error: { message: "no such thing" } }),
    ];
    expect(await tried(`http://127.0.0.1:${failing.port}/v1`, null, "KILN_TEST_NO_SUCH_KEY")).toEqual([
      ...["reachable true 0 ms", "key accepted false there is none: set what key_env or key_file names"],
      ...["model remote true there", "model gone false not in its list: tiny/fake …"],
      "first token false far answered 400: no such thing",
    ]);
    failing.close();
  });
});
