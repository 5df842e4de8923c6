import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { type Blobs, checkKey } from "../serve/store/blobs.ts";
import { copyBlobs, damagedBlobs } from "../serve/store/copy.ts";
import { openBlobs } from "../serve/store/index.ts";
import { signature, startS3 } from "./support/s3_stub.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-blobs-"));
const secret = "a secret key";
let s3: Awaited<ReturnType<typeof startS3>>;
beforeAll(async () => {
  s3 = await startS3(secret, { perPage: 3 });
});
beforeEach(() => {
  vi.stubEnv("AWS_ACCESS_KEY_ID", "AKID");
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", secret);
});
afterEach(() => vi.unstubAllEnvs());
afterAll(async () => {
  await s3.stop();
  rmSync(folder, { recursive: true, force: true });
});

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const read = async (blobs: Blobs, key: string, range?: { first: number; last: number }) =>
  Buffer.from(await new Response(await blobs.get(key, range)).arrayBuffer());
const keysOf = async (blobs: Blobs, ...asked: string[]) => {
  const keys = [];
  for await (const { key } of blobs.list(...asked)) keys.push(key);
  return keys;
};

describe.each(["files", "S3"])("blobs in %s", (kind) => {
  const open = (name: string) =>
    openBlobs(kind === "files" ? `fs:${folder}/${name}` : s3.address.replace("prefix", name));

  test("keep bytes, whole and in part", async () => {
    const blobs = await open("keep");
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7) % 251));
    const key = `users/abc/${sha256(bytes)}`;
    expect(await blobs.stat(key)).toBeNull();
    const pieces = [bytes.subarray(0, 3), bytes.subarray(3, 70_000), bytes.subarray(70_000)];
    expect(await blobs.put(key, pieces, { sha256: sha256(bytes) })).toBe(100_000);
    expect(await read(blobs, key)).toEqual(bytes);
    expect(await read(blobs, key, { first: 10, last: 19 })).toEqual(bytes.subarray(10, 20));
    expect(await read(blobs, key, { first: 200_000, last: 200_009 })).toHaveLength(0);
    expect(await blobs.stat(key)).toEqual({ bytes: 100_000 });
    await blobs.put("empty", []);
    expect(await read(blobs, "empty")).toHaveLength(0);
    expect(await blobs.delete(key)).toBe(true);
    expect(await blobs.delete(key)).toBe(false);
    await expect(blobs.get(key)).rejects.toMatchObject({ code: "store_no_blob" });
  });

  test("keep nothing where the bytes are others, or end in an error", async () => {
    const blobs = await open("whole");
    await blobs.put("a", [Buffer.from("before")]);
    const wrong = blobs.put("a", [Buffer.from("after")], { sha256: sha256(Buffer.from("before")) });
    await expect(wrong).rejects.toMatchObject({ code: "store_differs" });
    async function* broken() {
      yield Buffer.from("half");
      throw new Error("the client went away");
    }
    await expect(blobs.put("a", broken())).rejects.toThrow("the client went away");
    expect((await read(blobs, "a")).toString()).toBe("before");
    if (kind === "files") expect(readdirSync(path.join(folder, "whole"))).toEqual(["a"]);
  });

  test("list what is there in order, like a sorted list in memory", { timeout: 60_000 }, async () => {
    const blobs = await open("order");
    const keys = ["b", "a/x", "a-b", "a.c/y", "a/w/v", "a/x1", "c/d", "aa"];
    for (const key of keys) await blobs.put(key, [Buffer.from(key)]);
    const some = fc.constantFrom(...keys, "", "a", "a/", "c", "zz");
    await fc.assert(
      fc.asyncProperty(some, some, async (prefix, after) => {
        const wanted = keys.filter((key) => key.startsWith(prefix) && key > after).sort();
        expect(await keysOf(blobs, prefix, after)).toEqual(wanted);
      }),
      { numRuns: 40 },
    );
  });

  test("never leave their place", async () => {
    const blobs = await open("place");
    for (const key of [
      "../x",
      "a/../../x",
      "/etc/passwd",
      "a//b",
      "",
      "a\0b",
      "C:\\x",
      "..%2fx",
      ".hidden",
      "ä",
      "A",
      "x".repeat(600),
    ]) {
      await expect(blobs.put(key, [])).rejects.toMatchObject({ code: "store_key" });
      await expect(blobs.get(key)).rejects.toMatchObject({ code: "store_key" });
    }
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary", maxLength: 20 }), async (key) => {
        if (!/^[a-z\d_-][a-z\d_.-]*(\/[a-z\d_-][a-z\d_.-]*)*$/.test(key))
          expect(() => checkKey(key)).toThrow();
      }),
    );
  });
});

describe("S3", () => {
  test("the stub signs as AWS's documentation does", () => {
    const headers = {
      host: "examplebucket.s3.amazonaws.com",
      range: "bytes=0-9",
      "x-amz-content-sha256": sha256(Buffer.from("")),
      "x-amz-date": "20130524T000000Z",
      authorization:
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=00",
    };
    expect(
      signature({ method: "GET", url: "/test.txt", headers }, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ).toBe("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  });

  test("a wrong secret is refused, in one line that says what to check", async () => {
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "another");
    const blobs = await openBlobs(s3.address);
    const refused = {
      code: "store_refused",
      message: expect.stringMatching(/403 SignatureDoesNotMatch; check AWS_/),
    };
    await expect(blobs.put("a", [Buffer.from("x")])).rejects.toMatchObject(refused);
    await expect(keysOf(blobs)).rejects.toMatchObject(refused);
  });

  test("an answer of 503 is asked again; a server that is gone is told", async () => {
    const blobs = await openBlobs(s3.address);
    s3.faults.push(503, 503);
    await blobs.put("again", [Buffer.from("x")]);
    expect((await read(blobs, "again")).toString()).toBe("x");
    s3.faults.push(400);
    await expect(blobs.get("again")).rejects.toThrow("s3://bucket/some/prefix answers 400 SlowDown");
    const gone = await openBlobs("s3://bucket?endpoint=http://127.0.0.1:9&path_style=1");
    await expect(gone.stat("a")).rejects.toMatchObject({ code: "store_lost" });
  });

  test("addresses with what is missing or misspelt are told", async () => {
    await expect(openBlobs("s3://bucket?endpont=x")).rejects.toThrow("endpont is no setting");
    await expect(openBlobs("ftp://x")).rejects.toThrow("write fs:FOLDER or s3://BUCKET/PREFIX");
    vi.stubEnv("AWS_ACCESS_KEY_ID", "");
    await expect(openBlobs("s3://bucket")).rejects.toThrow("needs AWS_ACCESS_KEY_ID");
  });

  test("a container's role has keys: asked for with its token, kept, and renewed before they end", async () => {
    let asked = 0;
    let minutes = 60;
    const roles = createServer(({ headers }, response) => {
      asked++;
      const isRight = headers.authorization === "the pod's token";
      const until = new Date(Date.now() + minutes * 60_000).toISOString();
      const keys = { AccessKeyId: "ROLE", SecretAccessKey: secret, Token: "session", Expiration: until };
      response.writeHead(isRight ? 200 : 403).end(JSON.stringify(isRight ? keys : { message: "no" }));
    });
    await new Promise<void>((resolve) => roles.listen(0, "127.0.0.1", resolve));
    const { port } = roles.address() as AddressInfo;
    vi.stubEnv("AWS_ACCESS_KEY_ID", "");
    vi.stubEnv("AWS_CONTAINER_CREDENTIALS_FULL_URI", `http://127.0.0.1:${port}/role`);
    const blobs = await openBlobs(s3.address);
    await expect(blobs.stat("a")).rejects.toThrow(/answer 403 without keys; check the task's role/);
    writeFileSync(path.join(folder, "token"), "the pod's token\n");
    vi.stubEnv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.join(folder, "token"));
    asked = 0;
    await blobs.put("role", [Buffer.from("x")]);
    expect((await read(blobs, "role")).toString()).toBe("x");
    expect(asked).toBe(1);
    minutes = 4; // less than it takes to be on the safe side
    const short = await openBlobs(s3.address);
    for (const _ of [1, 2]) expect(await short.stat("role")).toEqual({ bytes: 1 });
    expect(asked).toBe(4);
    await new Promise((resolve) => roles.close(resolve));
    await expect(short.stat("role")).rejects.toMatchObject({ code: "store_refused" });
  });
});

test("blobs move from files to S3, and damage is found", async () => {
  const [from, to] = [
    await openBlobs(`fs:${folder}/move`),
    await openBlobs(s3.address.replace("prefix", "move")),
  ];
  for (const text of ["one", "two", "three", "four"])
    await from.put(`users/u/${sha256(Buffer.from(text))}`, [Buffer.from(text)]);
  await to.put(`users/u/${sha256(Buffer.from("one"))}`, [Buffer.from("one")]);
  expect(await copyBlobs(from, to)).toEqual({ blobs: 4, bytes: 15 });
  expect(await keysOf(to)).toEqual(await keysOf(from));
  expect(await damagedBlobs(to)).toEqual([]);
  const key = `users/u/${sha256(Buffer.from("two"))}`;
  writeFileSync(path.join(folder, "move", key), "too");
  expect(await damagedBlobs(from)).toEqual([key]);
  await expect(copyBlobs(from, to)).rejects.toThrow(`${key} differs`);
});
