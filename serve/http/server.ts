import { randomUUID } from "node:crypto";
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from "fastify";
import { ServeError } from "../errors.ts";
import type { Limits } from "../limits.ts";
import type { Frontend } from "../text/frontend.ts";
import { complete } from "./api/completions.ts";
import { getModel, health, listModels } from "./api/info.ts";
import { asServeError, envelope, type ParserFault, parserError } from "./errors.ts";
import {
  type Access,
  allowOrigin,
  answerPreflight,
  callerOf,
  checkBody,
  checkFraming,
  checkHost,
  checkKey,
  isPreflight,
} from "./gate.ts";
import { parseJson } from "./json.ts";
import { completionParser } from "./schema.ts";

export interface HttpOptions extends Access {
  readonly frontend: Frontend;
  readonly limits: Limits;
  /** Refuse fields that nobody knows instead of ignoring them. */
  readonly strict: boolean;
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
    // A missing Host is refused here, with an envelope.
    http: {
      maxHeaderSize: limits.headerBytes,
      connectionsCheckingInterval: 1000,
      requireHostHeader: false,
    },
    genReqId: requestId,
    clientErrorHandler: refuseSocket,
    frameworkErrors: (error, _request, reply) => sendError(reply, asServeError(error)),
  });
  listenForMore(app, limits);
  const routes = routeTable(options);
  app.addHook("onRequest", async (request, reply) => admit(options, routes, request, reply));
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    "application/json",
    { parseAs: "buffer" },
    async (_request: FastifyRequest, body: Buffer) => parseJson(body, limits),
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

/** What node's server would answer by itself, without an envelope, goes the way of all requests or of all refusals. */
function listenForMore({ server }: FastifyInstance, limits: Limits): void {
  server.headersTimeout = limits.headerWaitMs;
  // Node drops what is over its limit in silence: one more than ours tells that there were too many.
  server.maxHeadersCount = limits.headerCount + 1;
  server.maxConnections = limits.connections;
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    server.emit("request", request, response);
  };
  server.on("checkContinue", handle);
  server.on("checkExpectation", handle);
  server.on("connect", (_request, socket: Socket) => {
    refuse(socket, new ServeError(405, "this server is no proxy", { code: "method_not_allowed" }));
  });
}

/** All that is known from the head of a request, so that nothing of its body is read in vain. @throws ServeError. */
function admit(
  options: HttpOptions,
  routes: readonly Route[],
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply | undefined {
  reply.header("x-request-id", request.id);
  const permitted = allowOrigin(request, reply, options);
  checkFraming(request, options.limits);
  checkHost(request, options);
  const methods = allowedMethods(routes, request);
  if (isPreflight(request) && methods !== "") return answerPreflight(request, reply, permitted, methods);
  const route = routes.find(({ path }) => path === request.routeOptions.url);
  if (route?.open !== true) checkKey(request, options);
  if (request.is404) throw unrouted(routes, request);
  if (route?.method === "POST") checkBody(request, options.limits);
  if (request.headers.expect !== undefined) reply.raw.writeContinue();
  return undefined;
}

function routeTable(options: HttpOptions): Route[] {
  const { frontend, limits, strict } = options;
  const created = Math.floor(Date.now() / 1000);
  const parseCompletion = completionParser(limits, strict);
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
      handle: (request, reply) =>
        complete(frontend, limits, parseCompletion(request.body), callerOf(request, options), reply),
    },
  ];
}

/** The client's own id when it is short and printable, else a fresh one. */
function requestId(request: { headers: Record<string, string | string[] | undefined> }): string {
  const given = request.headers["x-request-id"];
  return typeof given === "string" && /^[\x21-\x7e]{1,128}$/.test(given) ? given : `req-${randomUUID()}`;
}

/** 405 for a path that has another method, else 404. */
function unrouted(routes: readonly Route[], request: FastifyRequest): ServeError {
  const { method } = request;
  const path = pathOf(request);
  const allow = allowedMethods(routes, request);
  if (allow === "")
    return new ServeError(404, `there is nothing at ${method} ${path.slice(0, 200)}`, { code: "not_found" });
  return new ServeError(405, `${path.slice(0, 200)} does not take ${method}; use ${allow}`, {
    code: "method_not_allowed",
    headers: { allow },
  });
}

/** The methods of the request's path, as in `Allow`; empty where there is nothing. */
function allowedMethods(routes: readonly Route[], request: FastifyRequest): string {
  return routes
    .filter((route) => matches(route.path, pathOf(request)))
    .map((route) => (route.method === "GET" ? "GET, HEAD" : route.method))
    .join(", ");
}

function pathOf({ url }: FastifyRequest): string {
  return url.split("?")[0];
}

function matches(pattern: string, path: string): boolean {
  return pattern.endsWith("*") ? path.startsWith(pattern.slice(0, -1)) : path === pattern;
}

function sendError(reply: FastifyReply, error: ServeError): FastifyReply {
  const { request } = reply;
  reply.header("x-request-id", request.id);
  // A client that waits for 100 may or may not send its body now: only a new connection is clear.
  const unsure = request.headers.expect !== undefined;
  if (error.code === "shutting_down" || error.status === 413 || unsure) reply.header("connection", "close");
  return reply.code(error.status).headers(error.headers).send(envelope(error));
}

/** Answers what node's HTTP parser refused, which never becomes a request. */
function refuseSocket(cause: ParserFault, socket: Socket): void {
  refuse(socket, cause.code === "ECONNRESET" ? null : parserError(cause));
}

/** Ends a connection, with an envelope where no other answer is on its way through it. */
function refuse(socket: Socket, error: ServeError | null): void {
  const answering = (socket as { _httpMessage?: ServerResponse | null })._httpMessage?.headersSent === true;
  if (error === null || answering || !socket.writable) {
    socket.destroy();
    return;
  }
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
