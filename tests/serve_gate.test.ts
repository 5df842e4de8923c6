import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  checkEnvelope,
  officialClient,
  raw,
  send,
  startServer,
  type TestServer,
  until,
} from "./serve_fake.ts";
import { checkedFetch } from "./support/checked_fetch.ts";

const base = { model: "tiny/fake", prompt: "once upon a time", max_tokens: 2, temperature: 0 };
const BODY = JSON.stringify(base);
const JSON_TYPE = "Content-Type: application/json\r\n";

/** Status, headers and body of the first answer that is not `100 Continue`. */
function parse(answer: string) {
  const rest = answer.replace(/^HTTP\/1.1 100 .*\r\n\r\n/, "");
  const [head = "", body = ""] = rest.split("\r\n\r\n");
  const [line = "", ...lines] = head.split("\r\n");
  const headers = Object.fromEntries(
    lines.map((text) => [text.slice(0, text.indexOf(":")).toLowerCase(), text.slice(text.indexOf(":") + 2)]),
  );
  return { status: Number(line.split(" ")[1]), headers, body, continued: rest !== answer };
}

describe("what HTTP allows to go wrong", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startServer({ limits: { bodyBytes: 10_000, keepAliveMs: 100, requestWaitMs: 2000 } });
  });
  afterAll(() => server.server.close());

  interface Sent {
    line?: string;
    host?: string;
    head?: string;
    body?: string | Uint8Array;
  }
  async function ask({ line, host = "Host: localhost\r\n", head = JSON_TYPE, body = BODY }: Sent) {
    const bytes = Buffer.from(body);
    const length = head.includes("Transfer-Encoding") ? "" : `Content-Length: ${bytes.length}\r\n`;
    const start = `${line ?? "POST /v1/completions HTTP/1.1"}\r\n${host}${head}${length}Connection: close\r\n\r\n`;
    return parse(await raw(server.url, Buffer.concat([Buffer.from(start), bytes])));
  }
  const chunked = (body: string) => `${Buffer.byteLength(body).toString(16)}\r\n${body}\r\n0\r\n\r\n`;

  it.each<[string, Sent, number, string]>([
    ["no Host", { host: "" }, 400, "bad_request"],
    ["an empty Host", { host: "Host:\r\n" }, 400, "bad_request"],
    ["two Hosts", { host: "Host: localhost\r\nHost: localhost\r\n" }, 400, "bad_request"],
    ["Host with a path", { host: "Host: localhost/x\r\n" }, 400, "bad_request"],
    ["an unknown expectation", { head: `${JSON_TYPE}Expect: wonders\r\n` }, 417, "expectation_failed"],
    ["PUT with bad JSON", { line: "PUT /v1/completions HTTP/1.1", body: "{" }, 405, "method_not_allowed"],
    ["POST to nothing with bad JSON", { line: "POST /nothing HTTP/1.1", body: "{" }, 404, "not_found"],
    [
      "a gzip body",
      { head: `${JSON_TYPE}Content-Encoding: gzip\r\n`, body: gzipSync(BODY) },
      415,
      "unsupported_content_encoding",
    ],
    [
      "Latin-1",
      { head: "Content-Type: application/json; charset=iso-8859-1\r\n" },
      415,
      "unsupported_charset",
    ],
    [
      "UTF-16",
      { head: 'Content-Type: application/json;charset="utf-16"\r\n', body: Buffer.from(BODY, "utf16le") },
      415,
      "unsupported_charset",
    ],
    ["bytes that are no UTF-8", { body: Buffer.from('{"model":"\xff"}', "latin1") }, 400, "invalid_json"],
    [
      "gzip as transfer encoding",
      { head: `${JSON_TYPE}Transfer-Encoding: gzip, chunked\r\n`, body: chunked(BODY) },
      501,
      "unsupported_transfer_encoding",
    ],
    [
      "a transfer encoding without end",
      { head: `${JSON_TYPE}Transfer-Encoding: gzip\r\n` },
      400,
      "bad_request",
    ],
    ["too many headers", { head: `${JSON_TYPE}${"A: b\r\n".repeat(100)}` }, 431, "headers_too_large"],
    ["HTTP/2", { line: "GET /health HTTP/2.0", body: "" }, 505, "bad_http_version"],
    ["HTTP/1.2", { line: "GET /health HTTP/1.2", body: "" }, 505, "bad_http_version"],
    ["CONNECT", { line: "CONNECT example.com:443 HTTP/1.1", head: "", body: "" }, 405, "method_not_allowed"],
    ["TRACE", { line: "TRACE /health HTTP/1.1", head: "", body: "" }, 405, "method_not_allowed"],
  ])("F12: %s", async (name, sent, status, code) => {
    const answer = await ask(sent);
    const body = JSON.parse(answer.body);
    checkEnvelope(body);
    expect([answer.status, body.error.code]).toEqual([status, code]);
    expect(answer.headers["x-request-id"]).toMatch(/^req-/);
    expect(answer.headers["content-type"]).toContain("application/json");
    expect(answer.headers.connection).toBe("close");
    const allow: Record<string, string> = { "PUT with bad JSON": "POST", TRACE: "GET, HEAD" };
    expect(answer.headers.allow).toBe(allow[name]);
    expect(server.engine.stats().accepted).toBe(0);
  });

  it.each<[string, Sent]>([
    ["HTTP/1.0 without Host", { line: "POST /v1/completions HTTP/1.0", host: "" }],
    ["a byte order mark", { body: `\ufeff${BODY}` }],
    ["UTF-8 by name", { head: 'Content-Type: Application/JSON; Charset="UTF-8"\r\n' }],
    ["identity", { head: `${JSON_TYPE}Content-Encoding: identity\r\n` }],
    ["chunks", { head: `${JSON_TYPE}Transfer-Encoding: Chunked\r\n`, body: chunked(BODY) }],
    ["TE, which speaks of the answer", { head: `${JSON_TYPE}TE: gzip, chunked\r\n` }],
    ["another protocol on offer", { head: `${JSON_TYPE}Upgrade: h2c\r\n` }],
  ])("%s is fine", async (_name, sent) => {
    const { status, body } = await ask(sent);
    expect([status, JSON.parse(body).choices?.length]).toEqual([200, 1]);
  });

  it("Expect: 100-continue is met once all is well with the head, and not before", async () => {
    const head = `${JSON_TYPE}Expect: 100-continue\r\n`;
    expect(await ask({ head })).toMatchObject({ status: 200, continued: true });
    const large = await ask({ head, body: " ".repeat(10_001) });
    expect(large).toMatchObject({ status: 413, continued: false });
    const wrong = await ask({ head, line: "PUT /v1/completions HTTP/1.1" });
    expect(wrong).toMatchObject({ status: 405, continued: false });
    expect(wrong.headers.connection).toBe("close");
  });

  it("half a surrogate pair is refused wherever it stands, a whole one is text", async () => {
    for (const text of ["\\ud83d", "a\\uDE00b", "\\ude00\\ud83d", "\\ud83d\\ud83d\\ude00", "\\uD83D\\n"]) {
      for (const body of [
        `{"model":"tiny/fake","prompt":"${text}"}`,
        `{"model":"tiny/fake","prompt":"a","stop":["${text}"]}`,
        `{"model":"tiny/fake","prompt":"a","user":"${text}"}`,
        `{"model":"tiny/fake","prompt":"a","${text}":1}`,
      ]) {
        const answer = await ask({ body });
        expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([400, "invalid_json"]);
        expect(answer.body).toContain("surrogate");
      }
    }
    for (const text of ["\\ud83d\\ude00", "\\\\ud83d", "\\uD83D\\uDE00\\ud83d\\ude00", "😀"]) {
      const answer = await ask({ body: `{"model":"tiny/fake","prompt":"${text}","max_tokens":1}` });
      expect(answer.status).toBe(200);
    }
  });

  it("F12: garbage behind a request never runs into the answer to it", async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let steps = 0;
    server.runner.before = () => (++steps > 2 ? held : undefined);
    const body = JSON.stringify({ ...base, max_tokens: 20, ignore_eos: true, stream: true });
    const head = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n${JSON_TYPE}Content-Length: ${body.length}\r\n\r\n`;
    const answer = await new Promise<string>((resolve) => {
      const { hostname, port } = new URL(server.url);
      const socket = connect(Number(port), hostname, () => socket.write(head + body));
      let heard = "";
      socket.on("data", (data) => {
        if (heard === "") socket.write("GARBAGE\r\n\r\n");
        heard += data;
      });
      socket.on("error", () => {});
      socket.on("close", () => resolve(heard));
    });
    release();
    expect(answer.match(/HTTP\/1.1 \d+/g)).toEqual(["HTTP/1.1 200"]);
    server.runner.before = () => {};
    await until(() => server.engine.stats().running === 0);
    expect((await ask({})).status).toBe(200);
  });
});

describe("who may ask", () => {
  const hostOf = async ({ url }: TestServer, host: string, target = "/health") =>
    parse(await raw(url, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));

  it("F27: without a key, a server on loopback answers to its own names only", async () => {
    const server = await startServer({ allowedHosts: ["kiln.test"] });
    for (const host of [
      ...["localhost", "LOCALHOST:8000", "localhost.", "app.localhost", "127.0.0.1:80", "[::1]:8000"],
      ...["10.0.0.7", "kiln.test", "Kiln.test:1234"],
    ]) {
      expect([host, (await hostOf(server, host)).status]).toEqual([host, 200]);
    }
    for (const host of [
      "evil.example",
      "evil.example:8000",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
    ]) {
      for (const path of ["/health", "/v1/models", "/nothing"]) {
        const { status, body } = await hostOf(server, host, path);
        checkEnvelope(JSON.parse(body));
        expect([status, JSON.parse(body).error.code]).toEqual([403, "host_not_allowed"]);
      }
    }
    // An absolute target is the host, whatever the header says.
    expect((await hostOf(server, "localhost", "http://evil.example/health")).status).toBe(403);
    expect((await hostOf(server, "evil.example", "http://localhost/health")).status).toBe(200);
    await server.server.close();
  });

  it("a key, any name, or another interface lifts that", async () => {
    const keyed = await startServer({ apiKey: "k" });
    expect((await hostOf(keyed, "evil.example")).status).toBe(200);
    expect((await hostOf(keyed, "evil.example", "/v1/models")).status).toBe(401);
    await keyed.server.close();
    const any = await startServer({ allowedHosts: ["*"] });
    expect((await hostOf(any, "evil.example")).status).toBe(200);
    await any.server.close();
    const wide = await startServer({ host: "0.0.0.0" });
    expect((await hostOf(wide, "gpubox.lan")).status).toBe(200);
    await wide.server.close();
  });

  it("a key that an empty header would match is none", async () => {
    for (const apiKey of ["", "two words", "schlüssel"]) {
      await expect(startServer({ apiKey })).rejects.toThrow("an API key must be of visible ASCII characters");
    }
  });

  const preflight = (server: TestServer, origin: string, path = "/v1/completions") =>
    fetch(server.url + path, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
      },
    });
  const ask = (server: TestServer, origin: string, json: object) =>
    send(`${server.url}/v1/completions`, { json, headers: { origin, authorization: "Bearer k" } });

  it("W51: pages of this machine may ask, others where a key or an option says so", async () => {
    const plain = await startServer({ allowedOrigins: ["https://app.example"] });
    const local = ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080", "https://app.example"];
    for (const origin of local) {
      const { status, headers } = await preflight(plain, origin);
      expect([status, headers.get("access-control-allow-origin")]).toEqual([204, origin]);
      expect(headers.get("access-control-allow-methods")).toBe("POST");
      expect(headers.get("access-control-allow-headers")).toBe("authorization,content-type,x-stainless-lang");
      expect(headers.get("vary")).toContain("Origin");
      for (const json of [base, { ...base, stream: true }, { ...base, n: -1 }]) {
        const answer = await ask(plain, origin, json);
        expect(answer.headers.get("access-control-allow-origin")).toBe(origin);
        expect(answer.headers.get("access-control-expose-headers")).toContain("x-request-id");
        expect(answer.headers.get("vary")).toBe("Origin");
      }
    }
    for (const origin of [
      "https://evil.example",
      "null",
      "http://localhost.evil.example",
      "https://app.example:1",
    ]) {
      const refused = await preflight(plain, origin);
      expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([403, null]);
      checkEnvelope(await refused.json());
      expect((await ask(plain, origin, base)).headers.get("access-control-allow-origin")).toBeNull();
    }
    expect((await preflight(plain, local[0], "/nothing")).status).toBe(404);
    const steps = plain.runner.steps;
    await preflight(plain, local[0]);
    expect(plain.runner.steps).toBe(steps);
    await plain.server.close();
  });

  it("W50 W51: with a key every page may ask, a preflight without it", async () => {
    const keyed = await startServer({ apiKey: "k" });
    const origin = "https://app.example";
    expect((await preflight(keyed, origin)).status).toBe(204);
    expect((await preflight(keyed, origin, "/nothing")).status).toBe(401);
    const noPreflight = await fetch(`${keyed.url}/v1/completions`, {
      method: "OPTIONS",
      headers: { origin },
    });
    expect(noPreflight.status).toBe(401);
    const answer = await ask(keyed, origin, base);
    expect([answer.status, answer.headers.get("access-control-allow-origin")]).toEqual([200, origin]);
    const refused = await send(`${keyed.url}/v1/models`, { headers: { origin } });
    expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([401, origin]);
    await keyed.server.close();
  });

  it("the official client in a page: its preflight and its request pass", async () => {
    const server = await startServer();
    const origin = "http://localhost:5173";
    const asPage: typeof fetch = async (input, init) => {
      const headers = new Headers(init?.headers);
      const names = [...headers.keys()].sort().join(",");
      const { status, headers: allowed } = await fetch(input, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": init!.method!,
          "access-control-request-headers": names,
        },
      });
      expect([status, allowed.get("access-control-allow-headers")]).toEqual([204, names]);
      headers.set("origin", origin);
      return checkedFetch(input, { ...init, headers });
    };
    const client = officialClient(server.url, { fetch: asPage, dangerouslyAllowBrowser: true });
    expect((await client.completions.create(base)).choices).toHaveLength(1);
    await server.server.close();
  });
});
