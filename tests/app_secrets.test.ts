import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { install } from "../serve/app/providers/index.ts";
import { appRoutes } from "../serve/http/api/app/index.ts";
import { routes as ownRoutes } from "../serve/http/api/index.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";
import { FaultProvider } from "./support/fault_provider.ts";

const PLANTED = {
  apiKey: "api-canary-0123456789",
  adminKey: "admin-canary-0123456789",
  provider: "sk-canary-0123456789",
};
const secrets = new Set<string>(Object.values(PLANTED));
const written: string[] = [];
let server: ChatServer;
let provider: FaultProvider;
/** A new token of an admin, and the header that has it. */
let token: () => Promise<{ authorization: string }>;

beforeAll(async () => {
  provider = await FaultProvider.start();
  vi.stubEnv("CANARY_KEY", PLANTED.provider);
  for (const name of ["stdout", "stderr"] as const)
    vi.spyOn(process[name], "write").mockImplementation((text) => written.push(String(text)) > 0);
  for (const name of ["log", "warn", "error"] as const)
    vi.spyOn(console, name).mockImplementation((...args) => written.push(inspect(args)) > 0);
  const providers = { cloud: provider.settings({ key_env: "CANARY_KEY" }) };
  const config = { providers, ensembles: {}, classifiers: {}, routes: {}, budgets: {} };
  const { apiKey, adminKey } = PLANTED;
  server = await chatServer("secrets", "multi", { apiKey, adminKey }, (models) => install(models, config));
  const { users } = await server.host.open();
  const eve = await users.add("eve", "admin");
  token = async () => {
    const made = await users.addKey(eve.id);
    secrets.add(made.token);
    return { authorization: `Bearer ${made.token}` };
  };
});
afterAll(async () => {
  await server.server.close(0);
  provider.close();
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** The secrets that are in a text. */
const foundIn = (text: string) => [...secrets].filter((secret) => text.includes(secret));
const targetOf = (pattern: string) => pattern.replace(/:\w+/g, "ID").replace("*", "ID");

it("S11: no answer of any route and no line of a log holds a key, whoever asks and however it is refused", async () => {
  let asked = 0;
  const logins = /^\/api\/(login|users|keys)/;
  for (const { method, path: pattern, example, admin } of [...ownRoutes, ...appRoutes]) {
    const body = method === "GET" || method === "DELETE" ? undefined : (example ?? {});
    const good = await token();
    const secret = good.authorization.slice("Bearer ".length);
    const ways: [unknown, Record<string, string>, string][] = [
      [body, {}, ""],
      [body, good, ""],
      [body, { authorization: `Bearer ${admin ? PLANTED.adminKey : PLANTED.apiKey}` }, ""],
      // Where a key has no place.
      [
        body && { ...body, model: secret, unknown: secret },
        { ...good, cookie: `kiln=${secret}`, "x-api-key": secret },
        `?token=${secret}&limit=${secret}&user_id=${secret}`,
      ],
    ];
    for (const [json, headers, query] of ways) {
      const answer = await server.ask(method, targetOf(pattern) + query, json, headers);
      asked++;
      const head = [...answer.headers].map((pair) => pair.join(": ")).join("\n");
      expect([method, pattern, query, foundIn(`${head}\n${answer.text}`)]).toEqual([
        method,
        pattern,
        query,
        [],
      ]);
      // A key that was just made is shown, this once.
      const made = answer.body?.token ?? answer.body?.key?.token;
      if (logins.test(pattern) && typeof made === "string") secrets.add(made);
    }
  }
  expect(asked).toBeGreaterThan(300);
  expect(foundIn(written.join(""))).toEqual([]);
  expect(foundIn(inspect(server.errors, { depth: 9 }))).toEqual([]);
});

it("S11: a provider that repeats its key tells it to nobody", async () => {
  const repeat = JSON.stringify({ error: { message: `Incorrect key: ${PLANTED.provider}` } });
  for (const status of [400, 401, 429, 500]) {
    provider.answers = [(response) => response.writeHead(status).end(repeat)];
    const ask = { user_id: "eve", query: "once", model: "far", params: { max_tokens: 2 } };
    const answer = await server.ask("POST", "/api/chat", ask, await token());
    expect([status, answer.status >= 400, foundIn(answer.text)]).toEqual([status, true, []]);
  }
  expect(provider.seen[0]!.headers.authorization).toBe(`Bearer ${PLANTED.provider}`);
  const { store } = await server.host.open();
  expect(foundIn(JSON.stringify(await store.all("SELECT * FROM message")))).toEqual([]);
  expect(foundIn(JSON.stringify(await store.all("SELECT * FROM event")))).toEqual([]);
  expect(foundIn(written.join("") + inspect(server.errors, { depth: 9 }))).toEqual([]);
});

it("S11: a store knows a token by its SHA-256 alone, and no list of keys shows even that", async () => {
  const { store } = await server.host.open();
  const keys = await store.all<{ hash: string }>("SELECT hash FROM api_key");
  expect(keys.length).toBeGreaterThan(20);
  const list = await server.ask("GET", "/api/keys", undefined, await token());
  expect(list.body.keys.length).toBeGreaterThan(20);
  expect(keys.filter(({ hash }) => list.text.includes(hash))).toEqual([]);
  const file = readFileSync(server.file, "latin1") + readFileSync(`${server.file}-wal`, "latin1");
  expect(foundIn(file)).toEqual([]);
});
