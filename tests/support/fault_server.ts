import { afterEach } from "vitest";
import { IDLE, idle, send, startServer, type TestServer, until } from "../serve_fake.ts";

/** What the tests of clients' faults share: servers that are closed after each test, and the request that is made of them. */
export const base = { model: "tiny/fake", prompt: "once upon a time", temperature: 0, ignore_eos: true };
export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const open: TestServer[] = [];
afterEach(async () => {
  for (const { server } of open.splice(0)) await server.close(0);
});

export async function start(options: Parameters<typeof startServer>[0]): Promise<TestServer> {
  const server = await startServer(options);
  open.push(server);
  return server;
}

export const settled = ({ engine }: TestServer) =>
  until(() => JSON.stringify(idle(engine)) === JSON.stringify(IDLE));

export const post = (server: TestServer, json: object, init: RequestInit = {}) =>
  send(`${server.url}/v1/completions`, { json: { ...base, ...json }, ...init });
