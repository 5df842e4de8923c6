import { connect } from "node:net";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { routes } from "../serve/http/api/index.ts";
import { checkEnvelope, fakeChatTokenizer, raw, send, startServer, type TestServer } from "./serve_fake.ts";

/** Faults on the wire, by the numbers of the design's table. */
const base = { model: "tiny/fake", prompt: "once upon a time", max_tokens: 2, temperature: 0 };

/** The answers on a connection: their statuses, and what they say. */
function answers(text: string): { status: number; head: string; body: string }[] {
  return text.split(/(?=HTTP\/1\.1 \d{3} )/).map((one) => {
    const [head, body = ""] = one.split("\r\n\r\n");
    return { status: Number(head.split(" ")[1]), head, body };
  });
}

/** Sends bytes and no more; returns all that comes back. */
function sayAndEnd(url: string, text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname, () => socket.end(Buffer.from(text, "latin1")));
    let answer = "";
    socket.on("data", (data) => {
      answer += data;
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(answer));
  });
}

describe("F12: what could be read as two requests", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startServer({ limits: { headerWaitMs: 300, requestWaitMs: 300, keepAliveMs: 100 } });
  });
  afterAll(() => server.server.close(0));
  const inner = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: smuggled\r\n\r\n";
  const body = JSON.stringify(base);
  const post = (head: string, rest: string) =>
    `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${head}\r\n\r\n${rest}`;
  const chunked = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;

  it.each<[string, string]>([
    ["both lengths", post(`Content-Length: ${chunked.length}\r\nTransfer-Encoding: chunked`, chunked)],
    ["both, chunks first", post("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\nG")],
    ["two lengths", post(`Content-Length: ${body.length}\r\nContent-Length: 0`, body)],
    ["a list of lengths", post(`Content-Length: ${body.length}, ${body.length}`, body)],
    ["a signed length", post(`Content-Length: +${body.length}`, body)],
    ["a hexadecimal length", post(`Content-Length: 0x${body.length.toString(16)}`, body)],
    ["a length below zero", post("Content-Length: -1", body)],
    ["a length past 2^64", post("Content-Length: 18446744073709551617", body)],
    ["a folded coding", post("Transfer-Encoding:\r\n chunked", chunked)],
    ["a folded name", post("X: y\r\n Transfer-Encoding: chunked", chunked)],
    ["a space before the colon", post("Transfer-Encoding : chunked", chunked)],
    ["a coding with a byte before it", post("Transfer-Encoding: \x0bchunked", chunked)],
    ["chunked twice", post("Transfer-Encoding: chunked, chunked", chunked)],
    ["chunked, then identity", post("Transfer-Encoding: chunked, identity", chunked)],
    ["a bare line feed", post(`X: y\nTransfer-Encoding: chunked\r\nContent-Length: ${body.length}`, body)],
    ["a bare carriage return", post(`X: y\rTransfer-Encoding: chunked`, body)],
    ["NUL in a header", post(`X: a\0b\r\nContent-Length: ${body.length}`, body)],
    ["a chunk size with a sign", post("Transfer-Encoding: chunked", `+1\r\n${body}\r\n0\r\n\r\n`)],
    [
      "a chunk size past 2^64",
      post("Transfer-Encoding: chunked", `1${"0".repeat(16)}\r\n${body}\r\n0\r\n\r\n`),
    ],
    ["a chunk without its end", post("Transfer-Encoding: chunked", `1\r\n{}\r\n0\r\n\r\n`)],
    ["a method without end", `${"A".repeat(20_000)} / HTTP/1.1\r\nHost: localhost\r\n\r\n`],
    ["a line feed before the method", `\n\0GET / HTTP/1.1\r\nHost: localhost\r\n\r\n`],
  ])("F12: %s: refused, and nothing behind it is heard", async (_name, text) => {
    const said = answers(await raw(server.url, Buffer.from(text + inner, "latin1")));
    expect(said.map(({ head }) => head).join()).not.toContain("smuggled");
    expect(said).toHaveLength(1);
    expect([400, 408, 413, 431, 501]).toContain(said[0].status);
    checkEnvelope(JSON.parse(said[0].body));
    expect(said[0].head.toLowerCase()).toContain("connection: close");
    expect(server.engine.stats().accepted).toBe(0);
  });

  it("F12: requests one behind the other are answered each, in order", async () => {
    const ask = (id: string) => inner.replace("smuggled", id);
    const text = ask("a") + post(`X-Request-Id: b\r\nContent-Length: ${body.length}`, body) + ask("c");
    const said = answers(await raw(server.url, text));
    expect(said.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(said.map(({ head }) => /x-request-id: (\w+)/.exec(head)?.[1])).toEqual(["a", "b", "c"]);
  });

  it("F12: any bytes: an envelope or a closed connection, and the next request is as before", async () => {
    const valid = post(`Content-Length: ${body.length}`, body);
    const piece = fc.constantFrom(
      "\r\n",
      "\n",
      "\r",
      "\0",
      " ",
      ":",
      ",",
      "\xff",
      "chunked",
      "0",
      "HTTP/1.1",
    );
    const edit = fc.record({
      at: fc.nat(valid.length),
      cut: fc.nat(8),
      put: fc.oneof(piece, fc.constant("")),
    });
    const before = (await send(`${server.url}/v1/completions`, { json: base })).body.choices;
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 4 }), async (edits) => {
        let text = valid;
        for (const { at, cut, put } of edits) text = text.slice(0, at) + put + text.slice(at + cut);
        const said = answers(await sayAndEnd(server.url, text));
        for (const one of said.filter(({ head }) => head !== "")) {
          expect([200, 400, 403, 404, 405, 408, 413, 415, 417, 431, 501, 505]).toContain(one.status);
          if (one.status !== 200) checkEnvelope(JSON.parse(one.body));
        }
      }),
      { numRuns: 200 },
    );
    expect((await send(`${server.url}/v1/completions`, { json: base })).body.choices).toEqual(before);
    expect(server.errors).toEqual([]);
  });
});

describe("keys", () => {
  let server: TestServer;
  const key = "s3cret-key";
  beforeAll(async () => {
    server = await startServer({ apiKey: key });
  });
  afterAll(() => server.server.close(0));
  const asked = async (target: string, headers: string, method = "GET") =>
    answers(
      await raw(
        server.url,
        Buffer.from(`${method} ${target} HTTP/1.1\r\n${headers}Connection: close\r\n\r\n`),
      ),
    )[0];

  it.each<[string, string]>([
    ["none", ""],
    ["an empty one", "Authorization: Bearer \r\n"],
    ["a beginning", `Authorization: Bearer ${key.slice(0, -1)}\r\n`],
    ["one more character", `Authorization: Bearer ${key}x\r\n`],
    ["another case", `Authorization: Bearer ${key.toUpperCase()}\r\n`],
    ["two in one header", `Authorization: Bearer ${key} ${key}\r\n`],
    ["a list", `Authorization: Bearer ${key}, Bearer x\r\n`],
    ["not ASCII", "Authorization: Bearer schlüssel\r\n"],
    ["of 10,000 characters", `Authorization: Bearer ${"x".repeat(10_000)}\r\n`],
    ["two headers, the second right", `Authorization: Bearer x\r\nAuthorization: Bearer ${key}\r\n`],
    ["two headers, the first right", `Authorization: Bearer ${key}\r\nAuthorization: Bearer x\r\n`],
    ["two X-Api-Key", `X-Api-Key: ${key}\r\nX-Api-Key: x\r\n`],
    ["an empty X-Api-Key", "X-Api-Key: \r\n"],
    ["in the query", ""],
  ])("F24: %s: 401", async (name, headers) => {
    const target = name === "in the query" ? `/v1/models?api_key=${key}` : "/v1/models";
    const { status, head, body } = await asked(target, `Host: localhost\r\n${headers}`);
    expect(status).toBe(401);
    expect(JSON.parse(body).error.code).toBe("invalid_api_key");
    expect(head.toLowerCase()).toContain("www-authenticate: bearer");
    expect(body).not.toContain(key);
  });

  it("F25: odd spellings of a path, a target and a Host open no route", async () => {
    const targets = [
      ...["//v1/models", "/v1//models", "/v1/../metrics", "/v1/%2e%2e/metrics", "/./metrics", "/metrics/"],
      ...["/health/../metrics", "/health/%2e%2e/metrics", "/health;/metrics", "/health%2f..%2fmetrics"],
      ...["/HEALTH/../v1/models", "/v1/models?/health", "/v1/models#/health", "/%76%31/models", "/health/x"],
      ...["http://localhost/metrics", "http://localhost/health/../metrics", "http://evil.example/v1/models"],
      ...["/v1/models/..%2f..%2fhealth", "/v1\\models", "/version\\..\\metrics", "*"],
    ];
    const hosts = ["localhost", "evil.example", "127.0.0.1:1", "localhost:/health"];
    for (const target of targets)
      for (const host of hosts) {
        const said = await asked(
          target,
          `Host: ${host}\r\nX-Original-Url: /health\r\nX-Forwarded-Host: x\r\n`,
        );
        expect([target, host, [400, 401].includes(said.status)]).toEqual([target, host, true]);
        checkEnvelope(JSON.parse(said.body));
      }
  });
});

describe("logs", () => {
  it("F26: of the default level hold no prompt, no answer, no key, whatever goes wrong", async () => {
    const written: string[] = [];
    const keep = (chunk: unknown) => {
      written.push(String(chunk));
      return true;
    };
    const spies = [process.stdout, process.stderr].map((out) =>
      vi.spyOn(out, "write").mockImplementation(keep as never),
    );
    for (const name of ["log", "info", "warn", "error", "debug"] as const)
      spies.push(vi.spyOn(console, name).mockImplementation(keep as never) as never);
    const canary = "canary7531";
    const tokenizer = fakeChatTokenizer();
    // Without the listener of tests: what is said is what a user sees.
    const server = await startServer({ tokenizer, apiKey: `key-${canary}`, onError: undefined } as never);
    const text = await tokenizer.encode(canary);
    server.runner.says = text;
    const headers = { authorization: `Bearer key-${canary}`, "x-request-id": canary };
    const ask = (path: string, json: object, more = {}) =>
      send(server.url + path, { json: { model: "tiny/fake", ...json }, headers: { ...headers, ...more } });
    const statuses: number[] = [];
    const trouble = [
      () => {},
      () => {
        throw new Error("the device is lost");
      },
    ];
    for (const before of trouble) {
      server.runner.before = before;
      for (const stream of [false, true]) {
        statuses.push((await ask("/v1/completions", { prompt: canary, stream, user: canary })).status);
        const messages = [{ role: "user", content: canary }];
        statuses.push((await ask("/v1/chat/completions", { messages, stream, max_tokens: 20 })).status);
      }
      statuses.push((await ask("/v1/responses", { input: canary, max_output_tokens: 20 })).status);
      statuses.push((await ask("/api/generate", { prompt: canary, stream: false })).status);
    }
    server.runner.before = () => {};
    server.runner.failItem = () => "logits that are not finite";
    statuses.push((await ask("/v1/completions", { prompt: canary })).status);
    server.runner.failItem = () => undefined;
    statuses.push((await ask("/v1/completions", { prompt: [canary], n: canary })).status);
    statuses.push((await ask("/v1/completions", { prompt: canary, guided_regex: `(${canary}` })).status);
    statuses.push((await ask(`/${canary}`, {})).status);
    statuses.push((await ask("/v1/completions", { model: canary, prompt: canary })).status);
    statuses.push((await ask("/v1/models", {}, { authorization: `Bearer wrong-${canary}` })).status);
    await server.server.close();
    for (const spy of spies) spy.mockRestore();
    expect(statuses).toEqual([
      ...[200, 200, 200, 200, 200, 200],
      ...[500, 500, 500, 500, 500, 500],
      ...[500, 400, 400, 404, 404, 401],
    ]);
    // The faults themselves were told.
    expect(written.join("")).toContain("the device is lost");
    expect(written.join("")).not.toContain(canary);
  });
});

it("F25: each route answers without a key as the table of routes says, by each method", async () => {
  const server = await startServer({ apiKey: "k", adminKey: "a" });
  for (const { path, open } of routes)
    for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
      const { status } = await send(server.url + path.replace("*", "x"), { method });
      const isOpen = open && (method === "GET" || method === "HEAD");
      expect([path, method, status]).toEqual([path, method, isOpen ? 200 : 401]);
    }
  await server.server.close();
});
