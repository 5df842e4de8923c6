import { connect } from "node:net";
import fc from "fast-check";
import { fastify } from "fastify";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { SseStream } from "../serve/http/sse.ts";
import {
  checkEnvelope,
  IDLE,
  idle,
  officialClient,
  raw,
  send,
  startServer,
  type TestServer,
  until,
} from "./serve_fake.ts";

const base = { model: "tiny/fake", prompt: "once upon a time", temperature: 0 };
const settled = (server: TestServer) =>
  until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function checkRaw(answer: string, status: number): void {
  const [head, body] = answer.split("\r\n\r\n");
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(head!.toLowerCase()).toContain("x-request-id: ");
  expect(head!.toLowerCase()).toContain("content-type: application/json");
  checkEnvelope(JSON.parse(body!));
}

describe("the envelope on every path", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startServer({ limits: { bodyBytes: 10_000, headerWaitMs: 300, requestWaitMs: 600 } });
  });
  afterEach(() => settled(server));
  afterAll(() => server.server.close());
  const json = { "content-type": "application/json" };
  const path = () => `${server.url}/v1/completions`;

  it("W7: unknown path 404, known path with another method 405 with Allow", async () => {
    expect((await send(`${server.url}/nothing`)).status).toBe(404);
    expect((await send(`${server.url}/v1/completions/x`, { json: {} })).status).toBe(404);
    const wrong = await send(path());
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect((await send(`${server.url}/v1/models`, { json: {} })).headers.get("allow")).toBe("GET, HEAD");
    expect((await send(`${server.url}/%zz`)).status).toBe(400);
  });

  it("W8: HEAD and OPTIONS never reach the engine", async () => {
    for (const method of ["HEAD", "OPTIONS"]) expect((await send(path(), { method })).status).toBe(405);
    expect((await send(`${server.url}/health`, { method: "HEAD" })).status).toBe(200);
    expect(server.engine.stats().accepted).toBe(0);
  });

  it("W5: echoes a short printable request id, makes one otherwise", async () => {
    const id = async (given: string) =>
      (await send(`${server.url}/health`, { headers: { "x-request-id": given } })).headers.get(
        "x-request-id",
      );
    expect(await id("abc-1")).toBe("abc-1");
    expect(await id("x".repeat(129))).toMatch(/^req-/);
    expect(await id("a b")).toMatch(/^req-/);
    const stream = await send(path(), { json: { ...base, stream: true }, headers: { "x-request-id": "s1" } });
    expect(stream.headers.get("x-request-id")).toBe("s1");
  });

  it("W35 W36: JSON that is no object, no JSON, too deep, too large, of another type", async () => {
    for (const body of ["[]", '"x"', "1", "null", "true", "", "{", "{} {}", "\0", '{"a":'.repeat(100)]) {
      const { status, body: answer } = await send(path(), { method: "POST", headers: json, body });
      expect([status, answer.error.code]).toEqual([400, "invalid_json"]);
    }
    const deep = `{"model":"tiny/fake","prompt":"a","x":${"[".repeat(64)}${"]".repeat(64)}}`;
    expect((await send(path(), { method: "POST", headers: json, body: deep })).body.error.message).toContain(
      "deeper than 64",
    );
    const large = await send(path(), { method: "POST", headers: json, body: " ".repeat(10_001) });
    expect([large.status, large.headers.get("connection")]).toEqual([413, "close"]);
    const text = { "content-type": "text/plain" };
    expect((await send(path(), { method: "POST", headers: text, body: JSON.stringify(base) })).status).toBe(
      415,
    );
    expect((await send(path(), { method: "POST" })).status).toBe(400);
  });

  it("W36: strange but harmless bodies do not disturb the next request", async () => {
    const before = (await send(path(), { json: base })).body.choices;
    for (const body of [
      '{"model":"tiny/fake","prompt":"a","__proto__":{"n":5},"constructor":{"prototype":1}}',
      '{"model":"tiny/fake","prompt":"a","prompt":"once"}',
      '{"model":"tiny/fake","prompt":"\\ud800 lone"}',
      `{"model":"${"m".repeat(5000)}","prompt":"a"}`,
    ]) {
      expect((await send(path(), { method: "POST", headers: json, body })).status).toBeLessThan(500);
    }
    expect((await send(path(), { json: base })).body.choices).toEqual(before);
  });

  it("W54 F8: answers what node's parser refuses: garbage, both lengths, large headers, slow senders", async () => {
    checkRaw(await raw(server.url, "GARBAGE\r\n\r\n"), 400);
    const both =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    checkRaw(await raw(server.url, both), 400);
    checkRaw(await raw(server.url, `GET / HTTP/1.1\r\nHost: x\r\nA: ${"a".repeat(20_000)}\r\n\r\n`), 431);
    checkRaw(await raw(server.url, "GET /health HTTP/1.1\r\nHost: x\r\nA"), 408);
    const body =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    checkRaw(await raw(server.url, body), 408);
  });

  it("F11: mutations of a valid body never give 5xx", async () => {
    const valid = {
      ...base,
      max_tokens: 2,
      n: 1,
      stop: ["x"],
      logit_bias: { "3": 1 },
      stream_options: null,
      logprobs: 2,
    };
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 3 }),
      fc.constantFrom(-1, 0, 1e308, 2 ** 53, "", [], {}, [[]], [0], [-0.5]),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(
          fc.constantFrom(
            ...Object.keys(valid),
            "prompt",
            "best_of",
            "seed",
            "echo",
            "min_p",
            "top_k",
            "priority",
            "other",
          ),
          value,
        ),
        fc.nat(3),
        fc.nat(),
        async (mutation, cut, at) => {
          let body = JSON.stringify({ ...valid, ...mutation });
          if (cut === 3) body = body.slice(0, at % body.length) + body.slice((at % body.length) + 1);
          const { status } = await send(path(), { method: "POST", headers: json, body });
          // Who may not set a priority is told so.
          expect([200, 400, 404, 413, ...("priority" in mutation ? [403] : [])]).toContain(status);
        },
      ),
      { numRuns: 250 },
    );
    expect(server.errors).toEqual([]);
  });
});

describe("clients that leave", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startServer({
      maxModelLen: 4000,
      blockCount: 1100,
      limits: { streamBacklogBytes: 60_000, streamStallMs: 50 },
    });
    server.runner.before = () => pause(1);
  });
  afterAll(() => server.server.close());
  const long = { ...base, max_tokens: 3900, ignore_eos: true };

  it("W18: breaking out of the loop aborts all choices", async () => {
    const stream = await server.client.completions.create({ ...long, n: 3, stream: true });
    for await (const _ of stream) break;
    await settled(server);
    expect(server.engine.stats().finished.abort).toBe(3);
  });

  it("F4: in any phase, streaming or not, and again and again", async () => {
    for (let i = 0; i < 30; i++) {
      const controller = new AbortController();
      const asked = fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ ...long, stream: i % 2 === 0 }),
        signal: controller.signal,
      });
      await pause(i % 10);
      controller.abort();
      await asked.then((response) => response.text()).catch(() => {});
    }
    await settled(server);
    expect(server.errors).toEqual([]);
  });

  it("F7: a reader that never reads is cut off when too much has waited too long", async () => {
    const limits = { streamBacklogBytes: 60_000, streamStallMs: 20, streamMostBytes: 1e9, pingMs: 10_000 };
    const app = fastify();
    const cut = new Promise<boolean>((resolve) => {
      app.get("/", async (_request, reply) => {
        const stream = new SseStream(reply, limits);
        // The kernel takes some megabytes before anything piles up here.
        for (let i = 0; !reply.raw.destroyed && i < 500_000; i++) {
          if (reply.raw.writableLength < 1e6) stream.send("x".repeat(10_000));
          await new Promise((next) => setImmediate(next));
        }
        resolve(reply.raw.destroyed);
        stream.end();
        return reply;
      });
    });
    const { hostname, port } = new URL(await app.listen({ port: 0, host: "127.0.0.1" }));
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    socket.pause();
    socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(await cut).toBe(true);
    socket.destroy();
    await app.close();
  });

  it("F7: a reader that does not take the rest of a complete answer is cut off", async () => {
    const limits = { answerReadMs: 100, answerReadRate: 1e9, keepAliveMs: 60_000 };
    const other = await startServer({ limits });
    for (let i = 0; i < 3000; i++) other.server.models.alias(`alias-${i}`, "tiny/fake");
    await new Promise<void>((resolve) => {
      const socket = connect(Number(new URL(other.url).port), "127.0.0.1");
      socket.pause();
      // Answers of 400 kB, until the kernel takes no more: then writing shows who is still there.
      const ask = () => socket.write("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10));
      const asking = setInterval(ask, 50);
      socket.on("error", () => {});
      socket.on("close", () => resolve(clearInterval(asking)));
    });
    await other.server.close();
  });

  it("F7: no reader holds more than so much memory, however short the time", async () => {
    const limits = {
      streamBacklogBytes: 10_000,
      streamStallMs: 600_000,
      streamMostBytes: 60_000,
      pingMs: 10_000,
    };
    const app = fastify();
    let most = 0;
    const cut = new Promise<boolean>((resolve) => {
      app.get("/", async (_request, reply) => {
        const stream = new SseStream(reply, limits);
        // The kernel takes some megabytes before anything piles up here.
        for (let sent = 0; !reply.raw.destroyed && sent < 5000; sent++) {
          stream.send("x".repeat(10_000));
          most = Math.max(most, reply.raw.writableLength);
          await new Promise((next) => setImmediate(next));
        }
        resolve(reply.raw.destroyed);
        stream.end();
        return reply;
      });
    });
    const { hostname, port } = new URL(await app.listen({ port: 0, host: "127.0.0.1" }));
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    socket.pause();
    socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(await cut).toBe(true);
    expect(most).toBeLessThan(limits.streamMostBytes + 11_000);
    socket.destroy();
    await app.close();
  });

  it("a reader gets all of what a step writes at once, however much", async () => {
    const limits = {
      streamBacklogBytes: 60_000,
      streamStallMs: 10_000,
      streamMostBytes: 64e6,
      pingMs: 10_000,
    };
    const app = fastify();
    app.get("/", (_request, reply) => {
      const stream = new SseStream(reply, limits);
      for (let i = 0; i < 500; i++) stream.send("x".repeat(10_000));
      stream.end();
    });
    const url = await app.listen({ port: 0, host: "127.0.0.1" });
    const text = await (await fetch(url)).text();
    expect(text.split("\n\n").length).toBe(502);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    await app.close();
  });
});

describe("overload and failure", () => {
  it("W52 F2: a full queue answers 429 with Retry-After before the engine sees anything", async () => {
    const server = await startServer({ maxSeqs: 1, limits: { queuedRequests: 2 } });
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    server.runner.before = () => held;
    const first = server.client.completions.create(base);
    await until(() => server.engine.stats().running === 1);
    const waiting = [0, 1].map(() => server.client.completions.create(base));
    await until(() => server.engine.stats().waiting === 2);
    const { status, headers, body } = await send(`${server.url}/v1/completions`, { json: base });
    expect([status, headers.get("retry-after"), body.error.type]).toEqual([429, "1", "rate_limit_error"]);
    const patient = officialClient(server.url, { maxRetries: 2 });
    const retried = patient.completions.create(base);
    await pause(50);
    release();
    const texts = (await Promise.all([first, ...waiting, retried])).map(({ choices }) => choices[0].text);
    expect(new Set(texts).size).toBe(1);
    await settled(server);
    await server.server.close();
  });

  it("W9 W53: a failure before the first token is an HTTP error, later an event without [DONE]", async () => {
    const server = await startServer();
    server.runner.before = () => {
      throw new Error("secret detail");
    };
    const early = await send(`${server.url}/v1/completions`, { json: { ...base, stream: true } });
    expect([early.status, early.headers.get("x-should-retry")]).toEqual([500, "false"]);
    expect(early.text).not.toContain("secret");
    let steps = 0;
    server.runner.before = () => {
      if (++steps === 5) throw new Error("secret detail");
    };
    const late = await send(`${server.url}/v1/completions`, { json: { ...base, stream: true } });
    expect(late.status).toBe(200);
    expect(late.text).not.toContain("[DONE]");
    expect(late.text).not.toContain("secret");
    checkEnvelope(JSON.parse(late.text.trim().split("\n\n").at(-1)!.slice(6)));
    steps = 0;
    const reading = async () => {
      const stream = await server.client.completions.create({ ...base, stream: true });
      for await (const _ of stream);
    };
    await expect(reading()).rejects.toMatchObject({ code: "engine_error" });
    expect(server.errors).toHaveLength(3);
    expect((await send(`${server.url}/v1/completions`, { json: base })).status).toBe(200);
    server.runner.before = () => {
      throw new Error("secret detail");
    };
    for (const health of [200, 200, 503]) {
      expect((await send(`${server.url}/v1/completions`, { json: base })).status).toBe(500);
      expect((await send(`${server.url}/health`)).status).toBe(health);
    }
    server.runner.before = () => {};
    expect((await send(`${server.url}/v1/completions`, { json: base })).status).toBe(200);
    expect((await send(`${server.url}/health`)).status).toBe(200);
    await settled(server);
    await server.server.close();
  });

  it("W10: a silent stream gets comments, which the client skips", async () => {
    const server = await startServer({ limits: { pingMs: 5 } });
    server.runner.before = () => pause(30);
    const { text } = await send(`${server.url}/v1/completions`, {
      json: { ...base, max_tokens: 3, stream: true },
    });
    expect(text).toContain(": ping\n\n");
    const stream = await server.client.completions.create({ ...base, max_tokens: 3, stream: true });
    let streamed = "";
    for await (const chunk of stream) streamed += chunk.choices[0].text;
    expect(streamed).toBe(
      (await server.client.completions.create({ ...base, max_tokens: 3 })).choices[0].text,
    );
    await server.server.close();
  });

  it("W49: a hung model shows in /health and in answers", async () => {
    const server = await startServer({ limits: { stepMs: 20 } });
    expect((await send(`${server.url}/health`)).body).toEqual({ status: "ok" });
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    server.runner.before = () => held;
    expect((await send(`${server.url}/v1/completions`, { json: base })).status).toBe(503);
    expect((await send(`${server.url}/health`)).status).toBe(503);
    expect((await send(`${server.url}/v1/completions`, { json: base })).status).toBe(503);
    release();
    await until(() => server.engine.state === "ready");
    expect((await send(`${server.url}/health`)).status).toBe(200);
    await server.server.close();
  });
});

describe("keys and life cycle", () => {
  it("W50 F24 F25: every route but /health wants the key", async () => {
    const server = await startServer({ apiKey: "s3cret" });
    const routes: [string, string][] = [
      ["GET", "/v1/models"],
      ["GET", "/v1/models/tiny/fake"],
      ["POST", "/v1/completions"],
      ["GET", "/nothing"],
      ["GET", "//v1/models"],
      ["GET", "/v1/../health/../v1/models"],
    ];
    for (const [method, path] of routes) {
      for (const authorization of [
        "",
        "Bearer",
        "Bearer s3cre",
        "Bearer s3cret2",
        "Basic s3cret",
        "s3cret",
      ]) {
        const { status, headers, body } = await send(server.url + path, {
          method,
          headers: { authorization },
        });
        expect([status, body.error.code, headers.get("www-authenticate")]).toEqual([
          401,
          "invalid_api_key",
          "Bearer",
        ]);
      }
    }
    expect((await send(`${server.url}/health`)).status).toBe(200);
    expect((await server.client.models.list()).data).toHaveLength(1);
    expect((await send(`${server.url}/v1/models`, { headers: { "x-api-key": "s3cret" } })).status).toBe(200);
    await server.server.close();
  });

  it("a port in use is one line that says what to do", async () => {
    const server = await startServer();
    const port = Number(new URL(server.url).port);
    const other = await startServer();
    await expect(other.server.listen({ port })).rejects.toThrow();
    await other.server.close();
    const { createServer } = await import("../serve/index.ts");
    const third = createServer({ modelName: "m", runner: server.runner, tokenizer: server.tokenizer });
    await expect(third.listen({ port })).rejects.toMatchObject({
      name: "KilnError",
      message: `port ${port} on 127.0.0.1 is in use: stop the other program or choose another port with --port`,
    });
    await third.close();
    await server.server.close();
  });

  it("F18: closing lets streams finish, refuses new requests, then frees the port", async () => {
    const server = await startServer();
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    server.runner.before = () => (server.runner.steps > 3 ? held : undefined);
    const endless = { ...base, ignore_eos: true };
    const stream = await server.client.completions.create({ ...endless, max_tokens: 30, stream: true });
    const reading = (async () => {
      let finish: string | null = null;
      for await (const chunk of stream) finish = chunk.choices[0].finish_reason ?? finish;
      return finish;
    })();
    const closing = server.server.close();
    const refused = await send(`${server.url}/v1/completions`, { json: base });
    expect([refused.status, refused.headers.get("connection")]).toEqual([503, "close"]);
    expect((await send(`${server.url}/health`)).status).toBe(503);
    release();
    expect(await reading).toBe("length");
    await closing;
    expect(idle(server.engine)).toEqual(IDLE);
    await expect(fetch(`${server.url}/health`)).rejects.toThrow();
  });

  it("F18: what does not finish in time ends with an error event", async () => {
    const server = await startServer();
    server.runner.before = () => pause(20);
    const asked = send(`${server.url}/v1/completions`, {
      json: { ...base, max_tokens: 100, ignore_eos: true, stream: true },
    });
    await until(() => server.engine.stats().generatedTokens > 2);
    await server.server.close(10);
    const { text } = await asked;
    expect(text).toContain('"code":"shutting_down"');
    expect(text).not.toContain("[DONE]");
  });
});
