import { request } from "node:http";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hostOf } from "../../serve/app/index.ts";
import { openPage } from "../../serve/http/page.ts";
import { fakeTokenizer, startServer } from "../serve_fake.ts";

/** A request as node sends it: fetch asks for gzip by itself, and unpacks it. */
function get(url: string, headers: Record<string, string> = {}, method = "GET") {
  return new Promise<{ status: number; headers: Record<string, string>; body: Buffer }>((resolve, reject) => {
    request(url, { method, headers }, (answer) => {
      const pieces: Buffer[] = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("end", () =>
        resolve({
          status: answer.statusCode!,
          headers: answer.headers as Record<string, string>,
          body: Buffer.concat(pieces),
        }),
      );
    })
      .on("error", reject)
      .end();
  });
}

describe("the page of a server", () => {
  let made: Awaited<ReturnType<typeof startServer>>;
  let url = "";
  beforeAll(async () => {
    // No file of the page needs the store, nor a key.
    const application = hostOf("single", () => Promise.reject(new Error("there is no store")));
    made = await startServer({ tokenizer: fakeTokenizer(), application, apiKey: "secret" });
    url = made.url;
  });
  afterAll(() => made.server.close(0));

  it("comes with all its files, as they are or compressed", async () => {
    const files = await openPage();
    expect(files.size).toBeGreaterThan(8);
    for (const [name, file] of files) {
      const plain = await get(url + name);
      expect(plain.status, name).toBe(200);
      expect(plain.body.equals(file.body), name).toBe(true);
      expect(plain.headers["content-encoding"]).toBeUndefined();
      expect(plain.headers).toMatchObject(file.headers);
      const small = await get(url + name, { "accept-encoding": "br, gzip;q=0.5" });
      expect(small.headers["content-encoding"], name).toBe("gzip");
      expect(small.body.length).toBe(Number(small.headers["content-length"]));
      expect(gunzipSync(small.body).equals(file.body), name).toBe(true);
    }
    for (const coding of ["identity", "gzip;q=0", "gzip; q=0.0, br", "xgzip"])
      expect((await get(url, { "accept-encoding": coding })).headers["content-encoding"]).toBeUndefined();
  });

  it("is not sent again to those who have it", async () => {
    const { headers } = await get(url);
    for (const known of [headers.etag!, `"x", W/${headers.etag}`, "*"]) {
      const again = await get(url, { "if-none-match": known });
      expect([again.status, again.body.length], known).toEqual([304, 0]);
      expect(again.headers.etag).toBe(headers.etag);
    }
    expect((await get(url, { "if-none-match": '"x"' })).status).toBe(200);
  });

  it("answers HEAD without a body, and other methods and files with a reason", async () => {
    const key = { authorization: "Bearer secret" };
    const head = await get(url, {}, "HEAD");
    expect([head.status, head.body.length]).toEqual([200, 0]);
    expect(head.headers["content-type"]).toBe("text/html; charset=utf-8");
    expect(Number(head.headers["content-length"])).toBe((await get(url)).body.length);
    const posted = await get(url, key, "POST");
    expect([posted.status, posted.headers.allow]).toEqual([405, "GET, HEAD"]);
    for (const name of ["/assets/", "/assets/none.js", "/assets/../index.html", "/assets/..%2fsw.js"])
      expect((await get(url + name, key)).status, name).toBe(404);
  });

  it("comes to no foreign name, as the rest of a server that needs no key", async () => {
    const application = hostOf("single", () => Promise.reject(new Error("there is no store")));
    const open = await startServer({ tokenizer: fakeTokenizer(), application });
    for (const name of ["/", "/sw.js", "/assets/icon.svg"]) {
      expect((await get(open.url + name, { host: "evil.example" })).status, name).toBe(403);
      expect((await get(open.url + name)).status, name).toBe(200);
    }
    await open.server.close(0);
  });

  it("is not there where a program embeds a server without conversations, which says so", async () => {
    const { url: other, server } = await startServer({ tokenizer: fakeTokenizer() });
    const { status, body } = await get(other);
    expect(status).toBe(404);
    expect(JSON.parse(body.toString()).error.message).toMatch(/no page.*openapi\.json/);
    await server.close(0);
  });
});
