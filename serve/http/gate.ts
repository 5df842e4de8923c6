import { createHash, timingSafeEqual } from "node:crypto";
import { isIP, type Socket } from "node:net";
import type { FastifyReply, FastifyRequest } from "fastify";
import { KilnError } from "../../core/errors.ts";
import type { Limits } from "../limits.ts";
import type { Access } from "./access.ts";
import { HttpError } from "./errors.ts";

/** Who asks. */
export interface Caller {
  /** Shares the model evenly with the other callers. */
  readonly client: string;
  /** Whether it may set `priority`. */
  readonly mayPrioritize: boolean;
}

/** @throws KilnError for a key that no header can carry, or that an empty header would match. */
export function assertKeys(access: Access): void {
  if ([...keysOf(access), access.adminKey ?? "-"].every((key) => /^[\x21-\x7e]+$/.test(key))) return;
  throw new KilnError("an API key must be of visible ASCII characters, at least one", { code: "bad_key" });
}

/** Refuses unsound HTTP/1 requests, before anything else looks at them. @throws HttpError. */
export function checkFraming({ raw, headers }: FastifyRequest, limits: Limits): void {
  if (raw.httpVersionMajor !== 1) throw unsound(505, "this server speaks HTTP/1.1", "bad_http_version");
  if (raw.rawHeaders.length / 2 > limits.headerCount) {
    throw unsound(431, `the request has more than ${limits.headerCount} headers`, "headers_too_large");
  }
  const hosts = raw.headersDistinct.host ?? [];
  if (hosts.length === 0 && raw.httpVersion !== "1.0") throw unsound(400, "the Host header is missing");
  if (hosts.length > 1 || (hosts.length === 1 && hostName(hosts[0]) === null)) {
    throw unsound(400, "the Host header must hold one host");
  }
  const coding = headers["transfer-encoding"]?.toLowerCase() ?? "chunked";
  if (coding !== "chunked") {
    const message = `the transfer encoding ${coding.slice(0, 100)} is not read: use chunked`;
    throw unsound(501, message, "unsupported_transfer_encoding");
  }
  const expectation = raw.httpVersion === "1.0" ? undefined : headers.expect;
  if (expectation !== undefined && expectation.toLowerCase() !== "100-continue") {
    throw unsound(417, "the only expectation met is 100-continue", "expectation_failed");
  }
}

/** Closes the connection, since its next bytes cannot be trusted, and tells clients not to retry. */
function unsound(status: number, message: string, code = "bad_request"): HttpError {
  return new HttpError(status, message, {
    code,
    headers: { connection: "close", "x-should-retry": "false" },
  });
}

/** Refuses kinds of bodies that cannot be read, before reading them. @throws HttpError. */
export function checkBody({ headers }: FastifyRequest, bodyBytes: number): void {
  const encoding = headers["content-encoding"]?.toLowerCase() ?? "identity";
  if (encoding !== "identity") {
    throw new HttpError(415, "compressed bodies are not read: send the JSON as it is", {
      code: "unsupported_content_encoding",
      headers: { "accept-encoding": "identity" },
    });
  }
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(headers["content-type"] ?? "")?.[1] ?? "utf-8";
  if (!/^(utf-?8|us-ascii)$/i.test(charset)) {
    throw new HttpError(415, `the charset ${charset.slice(0, 100)} is not read: send the JSON in UTF-8`, {
      code: "unsupported_charset",
    });
  }
  if (Number(headers["content-length"] ?? 0) > bodyBytes) {
    throw new HttpError(413, "the body is too large: send less at once", { code: "body_too_large" });
  }
}

/**
 * `curl -d` without a header says that its JSON is a form, as Ollama's users do. Forms of web pages, which browsers send to any
 * server without asking it, have an origin. @throws HttpError 415.
 */
export function checkNoForm({ url, headers }: FastifyRequest): void {
  const fromPage = headers.origin !== undefined || headers["sec-fetch-site"] !== undefined;
  if (url.startsWith("/api/") && !fromPage) return;
  throw new HttpError(415, "the content type must be application/json", { code: "unsupported_media_type" });
}

/**
 * Stops DNS rebinding: a foreign site can point its own name at 127.0.0.1 and then counts as the same origin, but the
 * name in `Host` gives it away. A server with a key needs no such guard, and one that other machines reach is open anyway.
 * @throws HttpError 403.
 */
export function checkHost(request: FastifyRequest, access: Access): void {
  const { allowedHosts = [] } = access;
  if (keysOf(access).length > 0 || allowedHosts.includes("*") || !listensOnLoopback(request)) return;
  // An absolute target counts instead of the header.
  const target = /^https?:\/\/([^/?#]*)/i.exec(request.raw.url ?? "")?.[1];
  const name = hostName(target ?? request.headers.host ?? "localhost");
  if (name !== null && (isOwnName(name) || allowedHosts.some((host) => hostName(host) === name))) return;
  throw new HttpError(
    403,
    `this server does not answer to the host ${name?.slice(0, 100)}: start it with --allowed-host NAME, or with --api-key`,
    { code: "host_not_allowed" },
  );
}

function listensOnLoopback({ server }: FastifyRequest): boolean {
  const address = server.server.address();
  return (
    typeof address === "object" && address !== null && /^(127\.|::1$|::ffff:127\.)/.test(address.address)
  );
}

/** The name in `name`, `name:port` or `[v6]:port`, in lower case; null for anything else. */
function hostName(host: string): string | null {
  const match = /^(?:\[([\da-f:.]+)\]|([^\s:[\]/@?#]+))(?::\d*)?$/i.exec(host);
  const name = (match?.[1] ?? match?.[2])?.toLowerCase().replace(/\.$/, "");
  return name || (isIP(host) === 6 ? host : null);
}

/** IP addresses are safe: no site can have one as its name. */
function isOwnName(name: string): boolean {
  return name === "localhost" || name.endsWith(".localhost") || isIP(name) !== 0;
}

/**
 * Lets permitted pages read the answer. Without a key these are pages of this machine, since any other page could use the
 * server through the browsers of its visitors. With a key every page may, as the key is what grants access.
 * @returns whether the request's origin, if it names one, is permitted.
 */
export function allowOrigin(request: FastifyRequest, reply: FastifyReply, access: Access): boolean {
  const { origin } = request.headers;
  reply.header("vary", "Origin");
  if (origin === undefined) return true;
  const { allowedOrigins = [] } = access;
  const open =
    keysOf(access).length > 0 || allowedOrigins.some((allowed) => allowed === "*" || allowed === origin);
  if (!open && !isLocalOrigin(origin)) return false;
  reply.header("access-control-allow-origin", origin);
  reply.header(
    "access-control-expose-headers",
    "x-request-id, x-kiln-prefix-key, retry-after, x-should-retry",
  );
  return true;
}

/**
 * A page may open a socket, which tells no origin apart by itself, and change what the application keeps, if it is this
 * server's own or permitted. @throws HttpError 403.
 */
export function checkOwnPage({ headers }: FastifyRequest, { allowedOrigins = [] }: Access): void {
  const { origin, host } = headers;
  const own = origin === undefined || /^https?:\/\/(.*)$/i.exec(origin)?.[1] === host;
  if (own || allowedOrigins.some((allowed) => allowed === "*" || allowed === origin)) return;
  throw new HttpError(
    403,
    "pages of this origin may not use the server: start it with --allowed-origin ORIGIN",
    { code: "origin_not_allowed" },
  );
}

function isLocalOrigin(origin: string): boolean {
  const name = hostName(/^https?:\/\/(.*)$/i.exec(origin)?.[1] ?? "");
  return name !== null && (name === "localhost" || name.endsWith(".localhost") || /^(127\.|::1$)/.test(name));
}

/** Whether this is a browser's CORS preflight. */
export function isPreflight({ method, headers }: FastifyRequest): boolean {
  const asks = headers["access-control-request-method"] !== undefined;
  return method === "OPTIONS" && headers.origin !== undefined && asks;
}

/** The answer to a preflight. @throws HttpError 403 for a page that may not ask. */
export function answerPreflight(
  { headers }: FastifyRequest,
  reply: FastifyReply,
  permitted: boolean,
  methods: string,
): FastifyReply {
  if (!permitted) {
    throw new HttpError(
      403,
      "pages of this origin may not use the server: start it with --allowed-origin ORIGIN, or with --api-key",
      { code: "origin_not_allowed" },
    );
  }
  const wanted = headers["access-control-request-headers"];
  if (typeof wanted === "string") reply.header("access-control-allow-headers", wanted);
  return reply
    .header("vary", "Origin, Access-Control-Request-Headers")
    .header("access-control-allow-methods", methods)
    .header("access-control-max-age", "600")
    .code(204)
    .send();
}

/** @throws HttpError 401 for a request without one of the server's keys, where there are any. */
export function checkKey(request: FastifyRequest, access: Access): void {
  if (!hasKeys(access) || givenKey(request, access) !== null || isAdmin(request, access)) return;
  throw wrongKey("missing or wrong API key");
}

/** What belongs to the one user of a server is for this machine, or for who has a key. @throws HttpError 403. */
export function checkPrivate(request: FastifyRequest, access: Access): void {
  if (hasKeys(access) || listensOnLoopback(request)) return;
  throw new HttpError(
    403,
    "other machines reach this server, and its conversations are one user's: start it with --api-key, or set KILN_USERS=multi",
    { code: "users_needed" },
  );
}

/** @throws HttpError 403 where the server has no administrator's key, 401 for a request without it. */
export function checkAdmin(request: FastifyRequest, access: Access): void {
  if (access.adminKey === undefined) {
    throw new HttpError(403, "models can be changed only on a server that was started with --admin-key KEY", {
      code: "administration_off",
    });
  }
  if (!isAdmin(request, access)) throw wrongKey("missing or wrong administrator's key");
}

function wrongKey(what: string): HttpError {
  return new HttpError(401, `${what}: send it as \`Authorization: Bearer KEY\``, {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}

/** Whether a request has the administrator's key, which opens everything. */
export function isAdmin(request: FastifyRequest, { adminKey }: Access): boolean {
  return adminKey !== undefined && matchingKey(request, [adminKey]) !== null;
}

/** Tells callers apart by their keys if the server has several, else by their connections. */
export function callerOf(request: FastifyRequest, access: Access): Caller {
  const key = givenKey(request, access);
  const several = keysOf(access).length > 1;
  return {
    client:
      several && key !== null ? `key ${keysOf(access).indexOf(key)}` : connectionName(request.raw.socket),
    mayPrioritize: key !== null && (access.priorityKeys ?? []).includes(key),
  };
}

/** The priority asked for. @throws HttpError 403 for a caller that may not set it. */
export function priorityOf({ mayPrioritize }: Caller, priority: number | null | undefined): number {
  if (priority == null || priority === 0 || mayPrioritize) return priority ?? 0;
  throw new HttpError(403, "priority is only for keys that the server was given as --priority-key", {
    param: "priority",
    code: "priority_not_allowed",
  });
}

const connections = new WeakMap<Socket, string>();
let connectionCount = 0;

function connectionName(socket: Socket): string {
  const name = connections.get(socket) ?? `connection ${connectionCount++}`;
  connections.set(socket, name);
  return name;
}

/** Whether programs need one of the server's keys. */
export const hasKeys = (access: Access): boolean => keysOf(access).length > 0;

function keysOf({ apiKey = [], priorityKeys = [] }: Access): string[] {
  return [...new Set([apiKey, priorityKeys].flat())];
}

/** The server's key that the request carries, or null. */
function givenKey(request: FastifyRequest, access: Access): string | null {
  return matchingKey(request, keysOf(access));
}

/** That of `keys` which the request carries, or null. All are compared, so that the time reveals nothing. */
function matchingKey({ headers, raw }: FastifyRequest, keys: readonly string[]): string | null {
  // Of two headers, node keeps the first and a proxy before it may have looked at the other.
  if ((raw.headersDistinct.authorization?.length ?? 0) > 1) return null;
  const given = /^Bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1] ?? headers["x-api-key"];
  if (typeof given !== "string") return null;
  return keys.filter((key) => timingSafeEqual(digest(given), digest(key)))[0] ?? null;
}

/** Gives keys equal lengths, for a comparison in constant time. */
function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}
