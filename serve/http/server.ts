import { randomUUID } from "node:crypto";
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from "fastify";
import type { Administration } from "../administration.ts";
import type { ApplicationHost } from "../app/index.ts";
import type { Limits } from "../limits.ts";
import type { ModelPool } from "../models.ts";
import type { Access } from "./access.ts";
import { appRoutes } from "./api/app/index.ts";
import { routes as ownRoutes } from "./api/index.ts";
import { addChatSocket, SOCKET_PATH } from "./chat_socket.ts";
import { asHttpError, envelope, HttpError, ollamaError, type ParserFault, parserError } from "./errors.ts";
import {
  allowOrigin,
  answerPreflight,
  callerOf,
  checkAdmin,
  checkBody,
  checkFraming,
  checkHost,
  checkKey,
  checkNoForm,
  checkOwnPage,
  checkPrivate,
  hasKeys,
  isAdmin,
  isPreflight,
} from "./gate.ts";
import { Incoming } from "./incoming.ts";
import { parseJson } from "./json.ts";
import { Metrics } from "./metrics.ts";
import { appParser, bodyParser, type Route } from "./route.ts";

export interface HttpOptions extends Access {
  readonly models: ModelPool;
  readonly administration?: Administration | undefined;
  readonly application?: ApplicationHost | undefined;
  /** Refuse unknown fields instead of ignoring them. */
  readonly strict: boolean;
  /** What the names of metrics begin with, before a colon. */
  readonly metricsPrefix: string;
}

/** What Fastify compiles the schemas of its routes with: they have none. */
const noSchema = () => () => {
  throw new Error("routes have no Fastify schemas");
};

/** Builds the HTTP application; the caller makes it listen. */
export function buildApp(options: HttpOptions): FastifyInstance {
  const { limits, onError } = options.models;
  const routes = options.application ? [...ownRoutes, ...appRoutes] : ownRoutes;
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
      IncomingMessage: Incoming,
    },
    genReqId: requestId,
    // Bodies are checked by the routes' own schemas: without these, Fastify reads its two compilers, a hundred files, at each start.
    schemaController: { compilersFactory: { buildValidator: noSchema, buildSerializer: noSchema } },
    clientErrorHandler: refuseSocket,
    frameworkErrors: (error, _request, reply) => sendError(reply, asHttpError(error)),
  });
  const metrics = new Metrics(options.models, options.metricsPrefix);
  listenForMore(app, limits);
  app.addHook("onResponse", async ({ method, routeOptions, headers, raw }, { statusCode }) => {
    metrics.answered(method, routeOptions.url ?? "none", statusCode);
    // Node lets go of a connection that asks for an upgrade: nobody else would close one that was refused.
    if (headers.upgrade !== undefined && statusCode >= 400) raw.socket.destroySoon();
  });
  app.addHook("onRequest", async (_request, { raw }) => {
    raw.once("prefinish", () => cutUnread(raw, limits));
  });
  app.addHook("onRequest", async (request, reply) => admit({ ...options, routes }, request, reply));
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    "application/json",
    { parseAs: "buffer" },
    async (_request: FastifyRequest, body: Buffer) => parseJson(body, limits),
  );
  app.addContentTypeParser(
    "application/x-www-form-urlencoded",
    { parseAs: "buffer" },
    async (request: FastifyRequest, body: Buffer) => {
      checkNoForm(request);
      return parseJson(body, limits);
    },
  );
  const takesFiles = new Set(routes.filter(({ files }) => files).map(({ path }) => path));
  app.addContentTypeParser(
    "multipart/form-data",
    async (request: FastifyRequest, payload: IncomingMessage) => {
      if (takesFiles.has(request.routeOptions.url ?? "")) return payload;
      throw new HttpError(415, "the content type must be application/json", {
        code: "unsupported_media_type",
      });
    },
  );
  for (const route of routes) addRoute(app, route, { ...options, routes }, metrics);
  const { application } = options;
  if (application)
    addChatSocket(app, { models: options.models, application }, (request) => {
      if (application.mode === "single") {
        checkKey(request, options);
        checkPrivate(request, options);
      }
      checkOwnPage(request, options);
    });
  app.setErrorHandler((error, _request, reply) => {
    const refusal = asHttpError(error);
    if (refusal.code === "internal_error") onError(error);
    return sendError(reply, refusal);
  });
  app.setNotFoundHandler((request, reply) => sendError(reply, unrouted(routes, request)));
  return app;
}

/** Routes what node would answer without an envelope to the usual handling of requests and refusals. */
function listenForMore({ server }: FastifyInstance, limits: Limits): void {
  server.headersTimeout = limits.headerWaitMs;
  // Node silently drops headers over its limit. One more than ours shows that there were too many.
  server.maxHeadersCount = limits.headerCount + 1;
  server.maxConnections = limits.connections;
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    server.emit("request", request, response);
  };
  server.on("checkContinue", handle);
  server.on("checkExpectation", handle);
  server.on("connect", (_request, socket: Socket) => {
    refuse(socket, new HttpError(405, "this server is no proxy", { code: "method_not_allowed" }));
  });
}

/** Cuts off a client that does not take the rest of a complete answer, for which nobody else waits any more. */
function cutUnread(answer: ServerResponse, { answerReadMs, answerReadRate }: Limits): void {
  const ms = answerReadMs + (1000 * answer.writableLength) / answerReadRate;
  const cut = setTimeout(() => answer.destroy(), ms);
  answer.once("close", () => clearTimeout(cut));
}

interface Routed extends HttpOptions {
  readonly routes: readonly Route[];
}

/**
 * Who may use what is nobody's own: whoever has a key of the server. Where people have tokens and there is no key, whoever has one
 * of these; a browser's session is for the page alone. @throws HttpError or AppError 401.
 */
async function checkCaller(request: FastifyRequest, options: HttpOptions): Promise<void> {
  checkKey(request, options);
  const { application } = options;
  if (application?.mode !== "multi" || hasKeys(options) || isAdmin(request, options)) return;
  const { authorization, "x-api-key": key } = request.headers;
  const { auth } = await application.open();
  await auth.principal({ authorization: authorization ?? `Bearer ${key}` });
}

/** Checks the head of a request, before any of its body is read. @throws HttpError or AppError. */
async function admit(
  options: Routed,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply | undefined> {
  reply.header("x-request-id", request.id);
  const { models, routes, application } = options;
  const { limits } = models;
  const permitted = allowOrigin(request, reply, options);
  checkFraming(request, limits);
  checkHost(request, options);
  const methods = allowedMethods(routes, request);
  if (isPreflight(request) && methods !== "") return answerPreflight(request, reply, permitted, methods);
  const method = request.method === "HEAD" ? "GET" : request.method;
  const route = routes.find((one) => one.path === request.routeOptions.url && one.method === method);
  // Where users have tokens, the application asks for them.
  const isSocket = application !== undefined && request.routeOptions.url === SOCKET_PATH;
  const hasUsers = application?.mode === "multi" && (route?.app || route?.queryForm) !== undefined;
  if (route?.open !== true && !hasUsers && !isSocket) await checkCaller(request, options);
  if (route?.app === true) {
    if (application?.mode === "single") checkPrivate(request, options);
    if (method !== "GET") checkOwnPage(request, options);
  }
  if (route?.admin === true) checkAdmin(request, options);
  if (request.is404) throw unrouted(routes, request);
  if (route?.schema !== undefined || route?.method === "POST")
    checkBody(request, route.bodyBytes?.(limits) ?? limits.bodyBytes);
  if (request.headers.expect !== undefined) reply.raw.writeContinue();
  return undefined;
}

/** Adds a route, with the parser of its bodies. */
function addRoute(app: FastifyInstance, route: Route, options: Routed, metrics: Metrics): void {
  const { method, path, bodyBytes, queryForm } = route;
  const { routes, administration, application } = options;
  const { limits } = options.models;
  const own = formOf(route, options);
  const other = queryForm && application && formOf(queryForm, options);
  app.route({
    method,
    url: path,
    bodyLimit: bodyBytes?.(limits) ?? limits.bodyBytes,
    handler: async (request, reply) => {
      const form = other && isQuery(request.body) ? other : own;
      if (form === other) queries.add(request);
      // Let in for the sake of the other form.
      if (form === own && other && application.mode === "multi") await checkCaller(request, options);
      if (form === other) checkOwnPage(request, options);
      if (form === other && application?.mode === "single") checkPrivate(request, options);
      const body = form.parse?.(request.body) as never;
      const { "*": rest = "", ...params } = request.params as Record<string, string>;
      // A model that is unloaded meanwhile stays until the answer is complete.
      const models = options.models.hold();
      try {
        return await form.handle({
          body,
          rest,
          params,
          caller: callerOf(request, options),
          service: { models, limits, metrics, routes, administration, application },
          reply,
        });
      } finally {
        models.release();
      }
    },
  });
}

/** What handles a route's requests, and parses their bodies. */
function formOf({ schema, app, advice, handle }: Route, { models, strict }: HttpOptions) {
  const fields = schema?.(models.limits);
  return { handle, parse: fields && (app ? appParser(fields) : bodyParser(fields, strict, advice)) };
}

/** Whether a body is of a route's other form; one that is of both is too, and refused there. */
const isQuery = (body: unknown) => (body as { query?: unknown } | null | undefined)?.query != null;

/** The client's own id if it is short and printable, else a fresh one. */
function requestId(request: { headers: Record<string, string | string[] | undefined> }): string {
  const given = request.headers["x-request-id"];
  return typeof given === "string" && /^[\x21-\x7e]{1,128}$/.test(given) ? given : `req-${randomUUID()}`;
}

/** 405 for a path that has another method, else 404. */
function unrouted(routes: readonly Route[], request: FastifyRequest): HttpError {
  const { method } = request;
  const path = pathOf(request);
  const allow = allowedMethods(routes, request);
  const hint = path === "/" ? ": this server has no page; /openapi.json describes what it answers" : "";
  const isOllamas = /^\/api\/(pull|push|create|copy|delete|blobs)\b/.test(path);
  const advice = isOllamas ? ": models come by kiln pull and kiln serve, or POST /v1/models/load" : hint;
  const nothing = `there is nothing at ${method} ${path.slice(0, 200)}${advice}`;
  if (allow === "") return new HttpError(404, nothing, { code: "not_found" });
  return new HttpError(405, `${path.slice(0, 200)} does not take ${method}; use ${allow}`, {
    code: "method_not_allowed",
    headers: { allow },
  });
}

/** The methods of the request's path, as in `Allow`; empty if there is no such path. */
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
  if (pattern.endsWith("*")) return path.startsWith(pattern.slice(0, -1));
  const parts = pattern.split("/");
  const given = path.split("/");
  return parts.length === given.length && parts.every((part, i) => part.startsWith(":") || part === given[i]);
}

function sendError(reply: FastifyReply, error: HttpError): FastifyReply {
  const { request } = reply;
  reply.header("x-request-id", request.id);
  // A client that waits for 100 may or may not send its body now, so the connection is in doubt.
  const unsure = request.headers.expect !== undefined;
  if (error.code === "shutting_down" || error.status === 413 || unsure) reply.header("connection", "close");
  return reply.code(error.status).headers(error.headers).send(bodyOf(request, error));
}

/** Ollama's clients read errors of another form, and theirs are the routes under /api. */
const bodyOf = (request: FastifyRequest, error: HttpError) =>
  pathOf(request).startsWith("/api/") && !isApplications(request) ? ollamaError(error) : envelope(error);

const appPaths = new Set(appRoutes.map(({ path }) => path));
/** Requests of the application's form of a route that Ollama's clients have too. */
const queries = new WeakSet<FastifyRequest>();
const isApplications = (request: FastifyRequest) =>
  appPaths.has(request.routeOptions.url ?? "") || queries.has(request);

/** Answers what node's HTTP parser refused. */
function refuseSocket(cause: ParserFault, socket: Socket): void {
  refuse(socket, cause.code === "ECONNRESET" ? null : parserError(cause));
}

/** Ends a connection, with an envelope unless another answer is being sent on it. */
function refuse(socket: Socket, error: HttpError | null): void {
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
