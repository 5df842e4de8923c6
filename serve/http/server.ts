import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from "fastify";
import { ServeError } from "../errors.ts";
import type { Frontend } from "../frontend.ts";
import type { Limits } from "../limits.ts";
import { asServeError, envelope, parserError } from "./errors.ts";
import { complete } from "./routes/completions.ts";
import { getModel, health, listModels } from "./routes/info.ts";
import { completionParser, parseJson } from "./schema.ts";

export interface HttpOptions {
  readonly frontend: Frontend;
  readonly limits: Limits;
  /** When set, every route but /health wants it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. */
  readonly apiKey?: string;
  /** Told of each failure whose details clients do not see. */
  readonly onError: (error: unknown) => void;
}

interface Route {
  readonly method: "GET" | "POST";
  /** Fastify's notation. */
  readonly path: string;
  readonly open?: true;
  readonly handle: (request: FastifyRequest, reply: FastifyReply) => unknown;
}

/** Builds the HTTP application. It listens when the caller says so. */
export function buildApp(options: HttpOptions): FastifyInstance {
  const { limits, onError } = options;
  const app = fastify({
    bodyLimit: limits.bodyBytes,
    keepAliveTimeout: limits.keepAliveMs,
    requestTimeout: limits.requestWaitMs,
    forceCloseConnections: "idle",
    return503OnClosing: false,
    http: { maxHeaderSize: limits.headerBytes, connectionsCheckingInterval: 1000 },
    genReqId: requestId,
    clientErrorHandler: refuseSocket,
    frameworkErrors: (error, _request, reply) => sendError(reply, asServeError(error)),
  });
  app.server.headersTimeout = limits.headerWaitMs;
  app.server.maxHeadersCount = limits.headerCount;
  app.server.maxConnections = limits.connections;
  const routes = routeTable(options);
  app.addHook("onRequest", async (request, reply) => {
    reply.header("x-request-id", request.id);
    const route = routes.find(({ path }) => path === request.routeOptions.url);
    if (options.apiKey !== undefined && route?.open !== true) checkKey(request, options.apiKey);
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    "application/json",
    { parseAs: "string" },
    async (_request: FastifyRequest, body: string) => parseJson(body, limits.jsonDepth),
  );
  for (const { method, path, handle } of routes) {
    app.route({ method, url: path, handler: async (request, reply) => handle(request, reply) });
  }
  app.setErrorHandler((error, _request, reply) => {
    const refusal = asServeError(error);
    if (refusal.code === "internal_error") onError(error);
    return sendError(reply, refusal);
  });
  app.setNotFoundHandler((request, reply) => sendError(reply, unrouted(routes, request)));
  return app;
}

function routeTable({ frontend, limits }: HttpOptions): Route[] {
  const created = Math.floor(Date.now() / 1000);
  const parseCompletion = completionParser(limits);
  return [
    { method: "GET", path: "/health", open: true, handle: () => health(frontend) },
    { method: "GET", path: "/v1/models", handle: () => listModels(frontend, created) },
    {
      method: "GET",
      path: "/v1/models/*",
      handle: ({ params }) => getModel(frontend, created, (params as { "*": string })["*"]),
    },
    {
      method: "POST",
      path: "/v1/completions",
      handle: ({ body }, reply) => complete(frontend, limits, parseCompletion(body), reply),
    },
  ];
}

/** The client's own id when it is short and printable, else a fresh one. */
function requestId(request: { headers: Record<string, string | string[] | undefined> }): string {
  const given = request.headers["x-request-id"];
  return typeof given === "string" && /^[\x21-\x7e]{1,128}$/.test(given) ? given : `req-${randomUUID()}`;
}

function checkKey(request: FastifyRequest, apiKey: string): void {
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
  const given = bearer ?? request.headers["x-api-key"];
  if (typeof given === "string" && timingSafeEqual(digest(given), digest(apiKey))) return;
  throw new ServeError(401, "missing or wrong API key: send it as `Authorization: Bearer KEY`", {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}

/** Equal lengths for a comparison whose time tells nothing. */
function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

/** 405 for a path that has another method, else 404. */
function unrouted(routes: readonly Route[], { method, url }: FastifyRequest): ServeError {
  const path = url.split("?")[0]!;
  const allowed = routes
    .filter((route) => matches(route.path, path))
    .map((route) => (route.method === "GET" ? "GET, HEAD" : route.method));
  if (allowed.length === 0)
    return new ServeError(404, `there is nothing at ${method} ${path.slice(0, 200)}`, { code: "not_found" });
  return new ServeError(405, `${path} does not take ${method}; use ${allowed.join(" or ")}`, {
    code: "method_not_allowed",
    headers: { allow: allowed.join(", ") },
  });
}

function matches(pattern: string, path: string): boolean {
  return pattern.endsWith("*") ? path.startsWith(pattern.slice(0, -1)) : path === pattern;
}

function sendError(reply: FastifyReply, error: ServeError): FastifyReply {
  reply.header("x-request-id", reply.request.id);
  if (error.code === "shutting_down" || error.status === 413) reply.header("connection", "close");
  return reply.code(error.status).headers(error.headers).send(envelope(error));
}

/** Answers what node's HTTP parser refused, which never becomes a request. */
function refuseSocket(cause: NodeJS.ErrnoException, socket: Socket): void {
  if (cause.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const error = parserError(cause.code);
  const body = JSON.stringify(envelope(error));
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: req-${randomUUID()}`,
    "connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}
