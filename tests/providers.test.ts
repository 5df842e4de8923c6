import type { LookupFunction } from "node:net";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { ProviderSettings } from "../serve/app/providers/config.ts";
import { FetchGuard, isPrivate } from "../serve/app/providers/fetch_guard.ts";
import type { Piece, ProviderCall } from "../serve/app/providers/provider.ts";
import { TokenBucket } from "../serve/app/providers/retry.ts";
import { Upstream } from "../serve/app/providers/upstream.ts";
import { cutAfter, eventsOf, FaultProvider, says, status, VirtualClock } from "./support/fault_provider.ts";

let provider: FaultProvider;
let clock: VirtualClock;
const open: Upstream[] = [];
beforeAll(async () => {
  provider = await FaultProvider.start();
});
afterAll(() => provider.close());
beforeEach(() => {
  clock = new VirtualClock();
  provider.seen.length = 0;
});
afterEach(() => {
  for (const upstream of open.splice(0)) upstream.close();
});

const KEY = "sk-canary-1234567890";
const call: ProviderCall = {
  ...{ model: "far", task: "chat", turns: [{ role: "user", content: "Hi" }], params: { temperature: 0 } },
  ...{ continues: false, scores: false },
};

function upstreamOf(more: Partial<ProviderSettings> = {}, lookup?: LookupFunction): Upstream {
  const options = lookup ? { clock, lookup } : { clock };
  open.push(new Upstream("cloud", provider.settings(more), KEY, options));
  return open.at(-1)!;
}

/** Asks, and gathers what came. */
async function ask(upstream: Upstream, asked: ProviderCall = call, signal = new AbortController().signal) {
  const pieces: Piece[] = [];
  const retries: number[] = [];
  let error: (Error & { code?: string }) | null = null;
  try {
    const onRetry = (attempt: number) => retries.push(attempt);
    for await (const piece of upstream.ask(asked, { signal, tokens: 10, onRetry })) pieces.push(piece);
  } catch (thrown) {
    error = thrown as Error;
  }
  const text = pieces.map((piece) => piece.text ?? "").join("");
  const usage = pieces.findLast((piece) => piece.usage)?.usage;
  const finish = pieces.findLast((piece) => piece.finish)?.finish;
  return { text, usage, finish, error, retries };
}

describe("a provider in OpenAI's dialect", () => {
  it("answers in pieces, with what it counted, and gets its key and nothing else of ours", async () => {
    provider.answers = [says("Hel", "lo", "!")];
    expect(await ask(upstreamOf())).toEqual({
      ...{ text: "Hello!", finish: "stop", error: null, retries: [] },
      usage: { prompt_tokens: 11, completion_tokens: 3, cached_tokens: 4, estimated: false },
    });
    const [seen] = provider.seen;
    expect([seen!.method, seen!.url, seen!.headers.authorization]).toEqual([
      ...["POST", "/v1/chat/completions", `Bearer ${KEY}`],
    ]);
    expect(seen!.body).toEqual({
      ...{ model: "far", messages: call.turns, temperature: 0, stream: true },
      stream_options: { include_usage: true },
    });
  });

  it("429, 429, 200: one answer, after two waits of which the second is the one asked for", async () => {
    provider.answers = [status(429), status(429, {}, { "retry-after": "7" }), says("yes")];
    const { text, retries } = await ask(upstreamOf());
    expect([text, retries, clock.waits, provider.seen.length]).toEqual(["yes", [1, 2], [250, 7000], 3]);
  });

  it("Retry-After may be a date, and is 30 s at most", async () => {
    const soon = new Date(clock.now() + 4000).toUTCString();
    provider.answers = [status(503, {}, { "retry-after": soon }), says("yes")];
    await ask(upstreamOf());
    provider.answers = [status(503, {}, { "retry-after": "3600" }), says("yes")];
    await ask(upstreamOf());
    expect(clock.waits).toEqual([4000, 30_000]);
  });

  it.each([400, 401, 403, 404, 422])("%d: one call, and no word of the key", async (code) => {
    provider.answers = [status(code, { error: { message: `no: ${KEY} is bad` } })];
    const { error, text } = await ask(upstreamOf());
    const refusal = code === 401 || code === 403 ? "upstream_key_refused" : "upstream_refused";
    expect([error?.code, text, provider.seen.length]).toEqual([refusal, "", 1]);
    expect(JSON.stringify([error, error?.message])).not.toContain("canary");
  });

  it("gives up after three tries", async () => {
    provider.answers = [status(500, { error: "broken" })];
    const { error } = await ask(upstreamOf());
    expect([error?.code, error?.message, provider.seen.length]).toEqual([
      ...["upstream_unavailable", "cloud answered 500: broken", 3],
    ]);
  });

  it("takes UTF-8 that is cut inside its characters, lines of either kind, and comments", async () => {
    const text = "é€😀 und so";
    const bytes = Buffer.from(
      eventsOf([...text])
        .replaceAll("\n", "\r\n")
        .replace(/^/, ": hello\r\n\r\n"),
    );
    provider.answers = [
      async (response) => {
        response.writeHead(200);
        for (const byte of bytes) {
          response.write(Uint8Array.of(byte));
          if (byte > 127) await new Promise((resolve) => setImmediate(resolve));
        }
        response.end();
      },
    ];
    expect(await ask(upstreamOf())).toMatchObject({ text, error: null });
  });

  it("takes an answer in one piece from a server that does not stream", async () => {
    const choices = [{ message: { content: "whole" }, finish_reason: "length" }];
    provider.answers = [(response) => response.end(JSON.stringify({ choices }, null, 2))];
    expect(await ask(upstreamOf())).toMatchObject({ text: "whole", finish: "length", error: null });
  });

  it.each([
    ["no JSON", "data: {]\n\n", "is no JSON"],
    ["another kind of JSON", "data: 5\n\n", "is no JSON"],
    ["a content that is no text", 'data: {"choices":[{"delta":{"content":{}}}]}\n\n', "is no text"],
    ["an error in its middle", 'data: {"error":{"message":"overloaded"}}\n\n', "it says: overloaded"],
    ["nothing at all", "", "ended in the middle"],
  ])("tries again after %s, then says what is wrong", async (_, body, message) => {
    provider.answers = [(response) => response.end(body)];
    const { error } = await ask(upstreamOf());
    expect(error?.message).toContain(message);
    expect(provider.seen.length).toBe(3);
    provider.answers = [(response) => response.end(body), says("yes")];
    expect(await ask(upstreamOf())).toMatchObject({ text: "yes", error: null });
  });

  it("cut off at any byte of 2 kB: an answer without a fault, or a beginning of it that is marked (property)", async () => {
    const text = "The quick brown fox jumps over the lazy dog: é€😀.";
    const stream = eventsOf(text.match(/.{1,2}/gsu)!);
    const length = Buffer.byteLength(stream);
    expect(length).toBeGreaterThan(2000);
    const first = stream.indexOf("\n") + 1;
    const end = Buffer.from(stream).indexOf('"finish_reason":"stop"') + '"finish_reason":"stop"}]}\n'.length;
    const check = async (bytes: number) => {
      provider.answers = [cutAfter(stream, bytes), says("again")];
      const { text: got, error, retries } = await ask(upstreamOf());
      if (bytes >= end) expect([bytes, got, error]).toEqual([bytes, text, null]);
      else if (bytes < first) expect([bytes, got, retries]).toEqual([bytes, "again", [1]]);
      else {
        expect([bytes, error?.code, text.startsWith(got), got !== ""]).toEqual([
          bytes,
          "interrupted",
          true,
          true,
        ]);
        expect(retries).toEqual([]);
      }
    };
    for (let bytes = 0; bytes <= length; bytes++) await check(bytes);
  });

  it("is given up where it is too slow: to begin, and in the middle", async () => {
    const silent = (response: import("node:http").ServerResponse) => void response.flushHeaders();
    provider.answers = [silent];
    const upstream = upstreamOf();
    const waiting = ask(upstream);
    for (let tries = 1; tries <= 3; tries++) {
      await expect.poll(() => provider.seen.length).toBe(tries);
      await new Promise((resolve) => setTimeout(resolve, 5));
      clock.advance(60_000);
    }
    expect((await waiting).error?.message).toBe("cloud sent no token within 60 s");
    provider.answers = [(response) => response.write(eventsOf(["half "]).split("\n\n")[0] + "\n\n")];
    const half: string[] = [];
    const asked = (async () => {
      const { signal } = new AbortController();
      for await (const piece of upstreamOf().ask(call, { signal, tokens: 1 })) half.push(piece.text ?? "");
    })();
    await expect.poll(() => half).toEqual(["half "]);
    clock.advance(29_000);
    await new Promise((resolve) => setTimeout(resolve, 5));
    clock.advance(1000);
    await expect(asked).rejects.toMatchObject({
      code: "interrupted",
      message: expect.stringContaining("no further token within 30 s"),
    });
  });

  it("ends at once when it is stopped, which is no failure of the provider's", async () => {
    let closed = 0;
    provider.answers = [
      (response) => {
        response.on("close", () => closed++);
        response.flushHeaders();
      },
    ];
    const upstream = upstreamOf();
    for (let i = 1; i <= 6; i++) {
      const stopping = new AbortController();
      const asked = ask(upstream, call, stopping.signal);
      await expect.poll(() => provider.seen.length).toBe(i);
      stopping.abort(new Error("stopped"));
      expect((await asked).error?.message).toBe("stopped");
      await expect.poll(() => closed).toBe(i);
    }
    expect(upstream.circuit).toBe("closed");
  });
});

describe("the other dialects", () => {
  it("Ollama's lines", async () => {
    const lines = [
      { message: { role: "assistant", content: "Hel" }, done: false },
      { message: { role: "assistant", content: "lo" }, done: false },
      { message: { content: "" }, done: true, done_reason: "length", prompt_eval_count: 5, eval_count: 2 },
    ];
    const upstream = upstreamOf({
      dialect: "ollama",
      base_url: provider.settings().base_url!.replace("/v1", ""),
    });
    provider.answers = [
      (response) => response.end(lines.map((line) => `${JSON.stringify(line)}\n`).join("")),
    ];
    const params = { max_tokens: 2, seed: 1 };
    expect(await ask(upstream, { ...call, params })).toMatchObject({
      ...{ text: "Hello", finish: "length", error: null },
      usage: { prompt_tokens: 5, completion_tokens: 2, cached_tokens: 0 },
    });
    expect(provider.seen[0]).toMatchObject({
      url: "/api/chat",
      body: { model: "far", options: { num_predict: 2, seed: 1 }, stream: true },
    });
    provider.answers = [(response) => response.end(`${JSON.stringify(lines[0])}\n`)];
    expect((await ask(upstream)).error?.code).toBe("interrupted");
    provider.answers = [(response) => response.end('{"error":"model requires more memory"}\n')];
    expect((await ask(upstream)).error?.message).toContain("model requires more memory");
    provider.answers = [status(200, { models: [{ name: "a:latest" }, { name: "b:1b" }] })];
    expect(await upstream.models(new AbortController().signal)).toEqual(["a:latest", "a", "b:1b"]);
  });

  it("Hugging Face's chat and its two tasks", async () => {
    const upstream = upstreamOf({ dialect: "hf-inference" });
    provider.answers = [says("chat")];
    expect(await ask(upstream)).toMatchObject({ text: "chat" });
    provider.answers = [
      status(200, [
        [
          { label: "POSITIVE", score: 0.75 },
          { label: "NEGATIVE", score: 0.25 },
        ],
      ] as never),
    ];
    expect(await ask(upstream, { ...call, task: "text-classification" })).toMatchObject({
      text: "POSITIVE 0.7500\nNEGATIVE 0.2500",
    });
    expect(provider.seen.at(-1)).toMatchObject({ url: "/v1/models/far", body: { inputs: "Hi" } });
    provider.answers = [status(200, [{ token_str: " cat", score: 0.5, sequence: "a cat" }] as never)];
    expect(await ask(upstream, { ...call, task: "fill-mask" })).toMatchObject({ text: "cat 0.5000" });
    provider.answers = [
      status(503, { error: "loading", estimated_time: 20 }),
      status(200, [{ label: 1 }] as never),
    ];
    expect((await ask(upstream, { ...call, task: "text-classification" })).error?.message).toContain(
      "none of text-classification",
    );
  });
});

describe("what a provider may be asked now", () => {
  it("the breaker opens after 5 failures in 30 s, lets one call try after 30 s, and closes when that answers", async () => {
    const upstream = upstreamOf();
    provider.answers = [status(500)];
    await ask(upstream); // three failures
    expect(upstream.circuit).toBe("closed");
    expect((await ask(upstream)).error?.code).toBe("upstream_open"); // at the third try of its own
    expect([upstream.circuit, provider.seen.length]).toEqual(["open", 5]);
    expect((await ask(upstream)).error?.code).toBe("upstream_open");
    expect(provider.seen.length).toBe(5);
    clock.advance(30_000);
    expect(upstream.circuit).toBe("half_open");
    await ask(upstream);
    expect([upstream.circuit, provider.seen.length]).toEqual(["open", 6]); // one call tried
    clock.advance(30_000);
    let release = () => {};
    provider.answers = [
      async (response) => {
        await new Promise<void>((resolve) => {
          release = resolve;
        });
        response.end(eventsOf(["back"]));
      },
    ];
    const probe = ask(upstream);
    await expect.poll(() => provider.seen.length).toBe(7);
    expect((await ask(upstream)).error?.code).toBe("upstream_open"); // while it tries
    release();
    expect((await probe).text).toBe("back");
    expect(upstream.circuit).toBe("closed");
  });

  it("failures that are further apart do not open it, nor do refusals", async () => {
    const upstream = upstreamOf();
    provider.answers = [status(500)];
    await ask(upstream);
    clock.advance(30_000);
    await ask(upstream);
    provider.answers = [status(429)];
    for (let i = 0; i < 3; i++) await ask(upstream);
    provider.answers = [status(400)];
    for (let i = 0; i < 6; i++) await ask(upstream);
    expect(upstream.circuit).toBe("closed");
  });

  it("requests and tokens a minute: waits for its turn, and heeds what the provider says is left", async () => {
    const upstream = upstreamOf({ rpm: 2 });
    provider.answers = [says("a")];
    for (let i = 0; i < 4; i++) await ask(upstream);
    expect(clock.waits).toEqual([30_000, 30_000]);
    const limited = { "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "59.5s" };
    const headers = { "content-type": "text/event-stream", ...limited };
    provider.answers = [(response) => response.writeHead(200, headers).end(eventsOf(["a"])), says("b")];
    const other = upstreamOf();
    await ask(other);
    await ask(other);
    expect(clock.waits.at(-1)).toBe(59_500);
    const later = { ...headers, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s" };
    provider.answers = [(response) => response.writeHead(200, later).end(eventsOf(["a"]))];
    await ask(other);
    const { length } = provider.seen;
    expect((await ask(other)).error?.message).toBe("cloud allows no more requests or tokens for 360 s");
    expect(provider.seen.length).toBe(length);
    const bucket = new TokenBucket(clock, { rpm: 1 });
    expect([bucket.take(1), bucket.take(1), bucket.take(1)]).toEqual([0, 60_000, 120_000]);
  });

  it("never more than the limit and a full bucket, whatever is taken (property)", () => {
    const step = fc.record({ after: fc.nat(20_000), tokens: fc.integer({ min: 1, max: 500 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 1000 }), (steps, tpm) => {
        const time = new VirtualClock();
        const bucket = new TokenBucket(time, { tpm });
        const begun = time.now();
        let sent = 0;
        for (const { after, tokens } of steps) {
          time.advance(after);
          const sentAfter = bucket.take(tokens) + (time.now() - begun);
          sent += Math.min(tokens, tpm);
          expect(sent).toBeLessThanOrEqual(tpm + (sentAfter / 60_000) * tpm + 1e-6);
        }
      }),
    );
  });
});

describe("addresses that are refused", () => {
  const guarded = (address: string, lookup?: LookupFunction) => {
    const upstream = new Upstream(
      "cloud",
      { ...provider.settings({ allow_private: false }), base_url: address },
      KEY,
      {
        ...{ clock },
        ...(lookup ? { lookup } : {}),
      },
    );
    open.push(upstream);
    return ask(upstream);
  };

  it.each([
    ...["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "127.0.0.1."],
    ...[
      "10.0.0.1",
      "192.168.1.1",
      "172.31.0.1",
      "100.64.0.1",
      "0.0.0.0",
      "[::ffff:127.0.0.1]",
      "[::ffff:7f00:1]",
    ],
    ...["[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost"],
  ])("%s, without a call", async (host) => {
    const { error } = await guarded(`https://${host}:${provider.port}/v1`);
    expect([error?.code, provider.seen.length]).toEqual(["upstream_forbidden", 0]);
  });

  it("public addresses are not", () => {
    for (const address of ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "100.128.0.1"])
      expect([address, isPrivate(address)]).toEqual([address, false]);
  });

  it("a name is looked up once for each connection, and refused if any of its addresses is private", async () => {
    let asked = 0;
    const rebinding: LookupFunction = (_, __, callback) => {
      asked++;
      const address = asked === 1 ? "93.184.216.34" : "127.0.0.1";
      callback(null, [
        { address, family: 4 },
        { address: "127.0.0.1", family: 4 },
      ] as never);
    };
    expect((await guarded(`https://rebind.example:${provider.port}/v1`, rebinding)).error?.code).toBe(
      "upstream_forbidden",
    );
    expect([asked, provider.seen.length]).toEqual([1, 0]);
  });

  it("the connection goes to the address that was checked, not to what the name says a moment later", async () => {
    const asked: string[] = [];
    const loopback: LookupFunction = (name, _, callback) => {
      asked.push(name);
      callback(null, [{ address: "127.0.0.1", family: 4 }] as never);
    };
    provider.answers = [says("here")];
    const base_url = `http://no-such-name.invalid:${provider.port}/v1`;
    expect(await ask(upstreamOf({ base_url }, loopback))).toMatchObject({ text: "here", error: null });
    expect(asked).toEqual(["no-such-name.invalid"]);
    expect(provider.seen[0]!.headers.host).toBe(`no-such-name.invalid:${provider.port}`);
  });

  it("redirects to other hosts are not followed, within the host they are", async () => {
    const elsewhere = (location: string) => [status(307, {}, { location }), says("moved")];
    for (const location of [
      "http://169.254.169.254/latest",
      `http://localhost:${provider.port}/v1`,
      "file:///etc/passwd",
      "//[bad",
    ]) {
      provider.answers = elsewhere(location);
      provider.seen.length = 0;
      expect([(await ask(upstreamOf())).error?.code, provider.seen.length]).toEqual([
        "upstream_forbidden",
        1,
      ]);
    }
    provider.answers = elsewhere("/v2/chat/completions");
    expect(await ask(upstreamOf())).toMatchObject({ text: "moved" });
    expect(provider.seen.at(-1)!.url).toBe("/v2/chat/completions");
    provider.answers = [status(307, {}, { location: "/again" })];
    expect((await ask(upstreamOf())).error?.code).toBe("upstream_forbidden");
    provider.answers = elsewhere("/v2").map((answer, i) =>
      i === 0 ? status(302, {}, { location: "/v2" }) : answer,
    );
    expect((await ask(upstreamOf())).error?.code).toBe("upstream_forbidden"); // it would become a GET
  });

  it("a connection that does not come within 5 s is given up", async () => {
    const never: LookupFunction = () => {};
    const guard = new FetchGuard({
      name: "cloud",
      allowPrivate: true,
      clock,
      connectMs: 5000,
      lookup: never,
    });
    const { signal } = new AbortController();
    const asked = guard.request(new URL("http://slow.example/"), { method: "GET", headers: {}, signal });
    clock.advance(5000);
    await expect(asked).rejects.toMatchObject({
      message: "cloud cannot be reached: no connection within 5 s",
      transient: true,
    });
    guard.close();
  });
});
