import { createHash, createHmac } from "node:crypto";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

const sha256 = (data: string | Buffer) => createHash("sha256").update(data).digest("hex");
const hmac = (key: string | Buffer, data: string) => createHmac("sha256", key).update(data).digest();

/** The signature of a request by AWS's Signature Version 4, from its description, with the headers that it says it signs. */
export function signature(
  request: { method: string; url: string; headers: IncomingHttpHeaders },
  secret: string,
): string {
  const { credential, signedHeaders } = authorization(request.headers);
  const [, date, region, service] = credential.split("/");
  const [path, query = ""] = request.url.split("?");
  const strict = (text: string) =>
    encodeURIComponent(decodeURIComponent(text)).replace(
      /[!'()*]/g,
      (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
    );
  const pairs =
    query === ""
      ? []
      : query
          .replaceAll("+", "%20")
          .split("&")
          .map((pair) => pair.split("=").map(strict));
  const canonical = [
    request.method,
    path,
    pairs
      .map(([name, value = ""]) => `${name}=${value}`)
      .sort()
      .join("&"),
    ...signedHeaders.map((name) => `${name}:${String(request.headers[name]).trim()}`),
    "",
    signedHeaders.join(";"),
    request.headers["x-amz-content-sha256"],
  ].join("\n");
  const scope = `${date}/${region}/${service}/aws4_request`;
  const toSign = ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, sha256(canonical)].join("\n");
  const key = [region!, service!, "aws4_request"].reduce(hmac, hmac(`AWS4${secret}`, date!));
  return hmac(key, toSign).toString("hex");
}

function authorization(headers: IncomingHttpHeaders) {
  const found = /^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=(\w+)$/.exec(
    headers.authorization ?? "",
  );
  return {
    credential: found?.[1] ?? "",
    signedHeaders: (found?.[2] ?? "").split(";"),
    given: found?.[3] ?? "",
  };
}

/** What S3 does with objects of one bucket, as far as kiln asks; refuses what is not signed with `secret`, byte for byte. */
export async function startS3(secret: string, { perPage = 1000 } = {}) {
  const objects = new Map<string, Buffer>();
  /** Answers that are given in place of the right one, first come first served. */
  const faults: number[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const say = (status: number, text: string | Buffer = "", headers = {}) => {
      response.writeHead(status, headers);
      response.end(request.method === "HEAD" ? undefined : text);
    };
    const refuse = (status: number, code: string) => say(status, `<Error><Code>${code}</Code></Error>`);
    const { method = "", url = "", headers } = request;
    if (authorization(headers).given !== signature({ method, url, headers }, secret))
      return refuse(403, "SignatureDoesNotMatch");
    const told = headers["x-amz-content-sha256"];
    if (told !== "UNSIGNED-PAYLOAD" && told !== sha256(body)) return refuse(400, "XAmzContentSHA256Mismatch");
    const fault = faults.shift();
    if (fault !== undefined) return refuse(fault, "SlowDown");
    const { pathname, searchParams } = new URL(url, "http://stub");
    const key = decodeURIComponent(pathname).replace(/^\/bucket\/?/, "");
    if (key === "") return say(200, listed(objects, searchParams, perPage));
    const found = objects.get(key);
    if (method === "PUT") {
      objects.set(key, body);
      return say(200);
    }
    if (method === "DELETE") {
      objects.delete(key);
      return say(204);
    }
    if (!found) return refuse(404, "NoSuchKey");
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "");
    if (!range) return say(200, found, { "content-length": found.length });
    if (Number(range[1]) >= found.length) return refuse(416, "InvalidRange");
    return say(206, found.subarray(Number(range[1]), Number(range[2]) + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    objects,
    faults,
    address: `s3://bucket/some/prefix?endpoint=${encodeURIComponent(`http://127.0.0.1:${port}`)}&path_style=1`,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function listed(objects: Map<string, Buffer>, asked: URLSearchParams, perPage: number): string {
  const after = asked.get("continuation-token") ?? asked.get("start-after") ?? "";
  const keys = [...objects.keys()]
    .filter((key) => key.startsWith(asked.get("prefix") ?? "") && key > after)
    .sort();
  const page = keys.slice(0, perPage);
  const contents = page.map(
    (key) => `<Contents><Key>${key}</Key><Size>${objects.get(key)!.length}</Size></Contents>`,
  );
  const next = keys.length > perPage ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : "";
  return `<?xml version="1.0"?><ListBucketResult>${contents.join("")}${next}</ListBucketResult>`;
}
