import { openAsBlob } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AwsClient } from "aws4fetch";
import { environmentVariable } from "../../core/platform/environment.ts";
import { firstLine } from "../../core/platform/files.ts";
import { awsSigner } from "./aws_keys.ts";
import { type Blobs, type Bytes, checkKey, noBlob, type Range } from "./blobs.ts";
import { newId } from "./ids.ts";
import { spool } from "./spool.ts";
import { storeError } from "./store.ts";

/**
 * Blobs in a bucket of S3 or what speaks its protocol: `s3://BUCKET/PREFIX`, with `endpoint=` (AWS without), `region=` and
 * `path_style=1` for servers that have the bucket in the path. Keys are those of `awsSigner`.
 */
export function openS3Blobs(address: string): Blobs {
  const { hostname: bucket, pathname, searchParams } = new URL(address);
  const asked = Object.fromEntries(searchParams);
  const unknown = Object.keys(asked).find((name) => !["endpoint", "region", "path_style"].includes(name));
  if (unknown !== undefined || bucket === "")
    throw storeError(
      "address",
      `KILN_BLOBS: ${unknown === undefined ? "the bucket is missing" : `${unknown} is no setting`}: write s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path_style=1`,
    );
  const region = asked.region ?? environmentVariable("AWS_REGION") ?? "us-east-1";
  const signer = awsSigner(region, address.split("?")[0]);
  const endpoint = new URL(asked.endpoint ?? `https://s3.${region}.amazonaws.com`);
  if (asked.path_style === "1") endpoint.pathname = `/${bucket}`;
  else endpoint.hostname = `${bucket}.${endpoint.hostname}`;
  const prefix = decodeURIComponent(pathname).replace(/^\/+|\/+$/g, "");
  return new S3Blobs(`s3://${bucket}/${prefix}`, signer, endpoint, prefix === "" ? "" : `${prefix}/`);
}

class S3Blobs implements Blobs {
  readonly name: string;
  readonly #signer: () => Promise<AwsClient>;
  readonly #base: string;
  readonly #prefix: string;

  constructor(name: string, signer: () => Promise<AwsClient>, endpoint: URL, prefix: string) {
    this.name = name;
    this.#signer = signer;
    this.#base = endpoint.href.replace(/\/$/, "");
    this.#prefix = prefix;
  }

  async put(key: string, bytes: Bytes, { sha256: expected }: { sha256?: string } = {}): Promise<number> {
    checkKey(key);
    // S3 wants length and hash before the first byte; the file has both, and is there for another try.
    const file = join(tmpdir(), `kiln-${newId()}`);
    const { bytes: count, sha256 } = await spool(file, key, bytes, expected);
    try {
      await this.#ask(key, {
        method: "PUT",
        body: await openAsBlob(file),
        headers: { "x-amz-content-sha256": sha256 },
      });
      return count;
    } finally {
      await rm(file, { force: true });
    }
  }

  async get(key: string, range?: Range): Promise<ReadableStream<Uint8Array>> {
    const headers = range && { range: `bytes=${range.first}-${range.last}` };
    const response = await this.#ask(key, { method: "GET", ...(headers && { headers }) }, [404, 416]);
    if (response.status === 404) throw noBlob(this, key);
    // A range behind the end, which a file answers with nothing.
    if (response.status === 416) return new Blob([]).stream();
    return response.body ?? new Blob([]).stream();
  }

  async stat(key: string): Promise<{ bytes: number } | null> {
    const response = await this.#ask(key, { method: "HEAD" }, [404]);
    return response.ok ? { bytes: Number(response.headers.get("content-length")) } : null;
  }

  async *list(prefix = "", after = ""): AsyncGenerator<{ key: string; bytes: number }> {
    let token = "";
    do {
      const query = new URLSearchParams({ "list-type": "2", prefix: this.#prefix + prefix });
      if (after !== "") query.set("start-after", this.#prefix + after);
      if (token !== "") query.set("continuation-token", token);
      const xml = await (await this.#send(`${this.#base}/?${query}`, { method: "GET" })).text();
      for (const [, entry] of xml.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g))
        yield { key: field(entry!, "Key").slice(this.#prefix.length), bytes: Number(field(entry!, "Size")) };
      token = field(xml, "NextContinuationToken");
    } while (token !== "");
  }

  async delete(key: string): Promise<boolean> {
    const was = await this.stat(key); // S3 says the same of one that was never there
    await this.#ask(key, { method: "DELETE" });
    return was !== null;
  }

  #ask(key: string, init: RequestInit, expected: number[] = []): Promise<Response> {
    const path = (this.#prefix + checkKey(key)).split("/").map(encodeURIComponent).join("/");
    return this.#send(`${this.#base}/${path}`, init, expected);
  }

  async #send(url: string, init: RequestInit, expected: number[] = []): Promise<Response> {
    const client = await this.#signer();
    const response = await client.fetch(url, init).catch((error: Error) => {
      const why = firstLine(error.cause ?? error) || (error.cause as { code?: string })?.code;
      throw storeError("lost", `${this.name} cannot be reached: ${why}`, error);
    });
    if (response.ok || expected.includes(response.status)) return response;
    const xml = await response.text();
    const code = field(xml, "Code") || response.statusText;
    const refused = response.status === 401 || response.status === 403;
    const remedy = refused ? "; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role" : "";
    throw storeError(
      refused ? "refused" : "lost",
      `${this.name} answers ${response.status} ${code}${remedy}`,
    );
  }
}

const entities: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

/** The text of an element of S3's answers, which are flat; empty where it is missing. */
function field(xml: string, name: string): string {
  const text = new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1] ?? "";
  return text.replace(/&(?:#(\d+)|(\w+));/g, (all, code, entity) =>
    code ? String.fromCodePoint(Number(code)) : (entities[entity] ?? all),
  );
}
