import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { connect, type Socket } from "node:net";
import { describe, expect, it, vi } from "vitest";
import { checkEnvelope, send, type TestServer, until } from "./serve_fake.ts";
import { base, pause, post, settled, start } from "./support/fault_server.ts";
import { leaveAgainAndAgain } from "./support/leaving_clients.ts";

// Faults of clients, by the numbers of the design's table: what they do to the server and to others.

it("F4: clients that leave by FIN, RST or half a close, in the queue, the prompt or the answer, leave nothing", async () => {
  const server = await start({ maxModelLen: 500, blockCount: 260, maxSeqs: 1, maxBatchedTokens: 16 });
  server.runner.before = () => pause(1);
  await leaveAgainAndAgain(server, 45);
  expect(server.engine.stats().finished).toMatchObject({ abort: 54, error: 0, length: 0 });
  expect(server.errors).toEqual([]);
});

it("F5: a storm of 200 requests for 10,000 tokens whose clients give up, then one that is answered", async () => {
  const server = await start({ maxModelLen: 10_100, blockCount: 4000, maxSeqs: 64 });
  server.runner.before = () => pause(1);
  const storm = Array.from({ length: 200 }, () =>
    post(server, { max_tokens: 10_000 }, { signal: AbortSignal.timeout(500) }).then(
      () => "answered",
      (error: Error) => error.name,
    ),
  );
  expect(new Set(await Promise.all(storm))).toEqual(new Set(["TimeoutError"]));
  const answer = await post(server, { max_tokens: 4 });
  expect(answer.status).toBe(200);
  await settled(server);
  expect(server.engine.stats().finished.length).toBe(1);
});

it("F36: of two requests with one X-Request-Id, the abort of one leaves the other", async () => {
  const server = await start({ maxModelLen: 400, blockCount: 300 });
  const alone = (await post(server, { max_tokens: 60 })).body.choices;
  server.runner.before = () => pause(2);
  const headers = { "x-request-id": "same" };
  const controller = new AbortController();
  const gone = post(server, { max_tokens: 300 }, { headers, signal: controller.signal }).catch(() => "gone");
  const kept = post(server, { max_tokens: 60 }, { headers });
  await until(() => server.engine.stats().generatedTokens > 80);
  controller.abort();
  expect(await gone).toBe("gone");
  const answer = await kept;
  expect([answer.status, answer.headers.get("x-request-id")]).toEqual([200, "same"]);
  expect(answer.body.choices).toEqual(alone);
  await settled(server);
  expect(server.engine.stats().finished).toMatchObject({ abort: 1, length: 2 });
});

it("F33: a clock that jumps by an hour, forth and back, ends nothing and times nothing out", async () => {
  const limits = { queueWaitMs: 20_000, stepMs: 20_000, requestWaitMs: 20_000, streamStallMs: 20_000 };
  const server = await start({ maxSeqs: 1, limits });
  server.runner.before = () => pause(1);
  const now = Date.now();
  const streams = [0, 1, 2].map(() => post(server, { max_tokens: 40, stream: true }));
  for (const hours of [1, -1, 0]) {
    const from = server.runner.steps;
    await until(() => server.runner.steps > from + 5);
    vi.setSystemTime(now + hours * 3_600_000);
    expect((await send(`${server.url}/health`)).status).toBe(200);
  }
  const answers = await Promise.all(streams);
  vi.useRealTimers();
  for (const { status, text } of answers) {
    expect([status, text.endsWith("data: [DONE]\n\n")]).toEqual([200, true]);
    expect(new Set(text.match(/"created":\d+/g)).size).toBe(1);
  }
  expect(server.engine.stats().finished).toMatchObject({ length: 3, error: 0, abort: 0 });
});

describe("F9: bodies over the limit", () => {
  const bodyBytes = 100_000;
  const head = (more: string) =>
    `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${more}\r\n\r\n`;

  /** What the server answers, and the bytes that it had read of the connection by its end. */
  async function talk(server: TestServer, begin: (socket: Socket) => void) {
    const heard: Socket[] = [];
    const listen = (message: unknown) => heard.push((message as { socket: Socket }).socket);
    subscribe("http.server.request.start", listen);
    const { hostname, port } = new URL(server.url);
    const answer = await new Promise<string>((resolve) => {
      let text = "";
      const socket = connect(Number(port), hostname, () => begin(socket));
      socket.on("data", (data) => {
        text += data;
      });
      socket.on("error", () => {});
      socket.on("close", () => resolve(text));
    });
    unsubscribe("http.server.request.start", listen);
    const [top, body] = answer.split("\r\n\r\n");
    checkEnvelope(JSON.parse(body));
    return { status: Number(top.split(" ")[1]), read: heard[0]?.bytesRead ?? 0, requests: heard.length };
  }

  it("F9: by one byte, by their announced length, and without an end, are refused before they are read", async () => {
    const server = await start({ limits: { bodyBytes } });
    const body = (length: number) => JSON.stringify({ ...base, max_tokens: 1, user: "" }).padEnd(length);
    const fits = await fetch(`${server.url}/v1/completions`, {
      ...{ method: "POST", headers: { "content-type": "application/json" }, body: body(bodyBytes) },
    });
    expect(fits.status).toBe(200);
    const over = head(`Content-Length: ${bodyBytes + 1}`);
    const byOne = await talk(server, (socket) => socket.write(over + body(bodyBytes + 1)));
    expect(byOne.status).toBe(413);
    const announced = await talk(server, (socket) => socket.write(over));
    expect(announced).toMatchObject({ status: 413, read: over.length });
    const endless = await talk(server, (socket) => {
      socket.write(head("Transfer-Encoding: chunked"));
      const chunk = `1000\r\n${" ".repeat(0x1000)}\r\n`;
      const more = () => {
        while (!socket.destroyed && socket.write(chunk));
      };
      socket.on("drain", more);
      more();
    });
    expect(endless.status).toBe(413);
    expect(endless.read).toBeLessThan(bodyBytes + 2 ** 20);
    expect(server.engine.stats().accepted).toBe(1);
  });

  it("F9: bytes past the announced length are no request, and never run", async () => {
    const server = await start({ limits: { bodyBytes } });
    const body = JSON.stringify({ ...base, max_tokens: 1 });
    const lie = await talk(server, (socket) => {
      socket.write(`${head(`Content-Length: ${body.length - 20}`)}${body}`);
    });
    expect(lie.status).toBe(400);
    expect(server.engine.stats().accepted).toBe(0);
  });
});
