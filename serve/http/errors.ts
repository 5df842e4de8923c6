import { KilnError } from "../../core/errors.ts";
import { AppError } from "../app/app_error.ts";
import { RequestError, type RequestErrorCode } from "../engine/errors.ts";

/** A refusal or failure with the status and headers that HTTP gives it. */
export class HttpError extends Error {
  readonly status: number;
  /** Dotted path of the offending request field, or null. */
  readonly param: string | null;
  /** Stable machine-readable name, or null. */
  readonly code: string | null;
  /** Response headers that belong to the error, e.g. `retry-after` (seconds, 1 to 60: clients ignore more). */
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    message: string,
    options: { param?: string | null; code?: string | null; headers?: Record<string, string> } = {},
  ) {
    super(message);
    this.name = "HttpError";
    this.status = status;
    this.param = options.param ?? null;
    this.code = options.code ?? null;
    this.headers = options.headers ?? {};
  }
}

/** 400 for the named field of the request. */
export function badRequest(param: string, message: string, code: string | null = null): HttpError {
  return new HttpError(400, message, { param, code });
}

/** Status and headers of the errors of engine and front end. */
const STATUS: Record<RequestErrorCode, readonly [status: number, headers?: Record<string, string>]> = {
  invalid_request: [400],
  context_length_exceeded: [400],
  queue_full: [429, { "retry-after": "1" }],
  client_closed: [499],
  engine_error: [500, { "x-should-retry": "false" }],
  internal_error: [500],
  engine_unavailable: [503],
  queue_timeout: [503, { "retry-after": "5" }],
  shutting_down: [503],
};

function ofRequest({ code, message, param }: RequestError): HttpError {
  const [status, headers = {}] = STATUS[code];
  return new HttpError(status, message, { param, code: code === "invalid_request" ? null : code, headers });
}

/** OpenAI's error envelope: all four keys always present. */
export interface ErrorEnvelope {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** Characters of a message or a field's name. */
const LONGEST = 1000;

/** The body of an error where Ollama's clients are. */
export function ollamaError({ message }: HttpError): { readonly error: string } {
  return { error: message.slice(0, LONGEST) };
}

/** The only place that makes an error body, but for Ollama's clients. */
export function envelope(error: HttpError): ErrorEnvelope {
  const { status, code } = error;
  // Both may quote what the client sent, which may be long.
  const message = error.message.slice(0, LONGEST);
  const param = error.param?.slice(0, LONGEST) ?? null;
  return { error: { message, type: errorType(status), param, code } };
}

function errorType(status: number): string {
  if (status >= 500) return "server_error";
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  if (status === 429) return "rate_limit_error";
  return "invalid_request_error";
}

type Refusal = readonly [status: number, message: string, code: string];

/** Fastify's own refusals, by its codes. */
const REFUSALS: Record<string, Refusal> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, "the request body is too large: send less at once", "body_too_large"],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    415,
    "the content type must be application/json",
    "unsupported_media_type",
  ],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: [400, "the body is not as long as content-length says", "bad_request"],
  FST_ERR_BAD_URL: [400, "the path is not a valid URL", "bad_url"],
};

/** What a client may know of a store that fails. */
const STORE_FAULTS: Record<string, readonly [status: number, message: string]> = {
  store_lost: [503, "the database cannot be reached; nothing was kept: try again"],
  store_busy: [503, "the database is held by another process; nothing was kept: try again"],
  store_newer: [503, "the store is of a newer kiln, which the server's log names: update this one"],
  store_changed: [503, "the store is of another kiln, which the server's log names: start that one"],
  store_damaged: [503, "the store is damaged: put a backup in its place; the server's log says where"],
  disk_full: [507, "the server's disk is full; nothing was kept: free some of it"],
};

/** Any thrown value as the error that the client sees. Details of unexpected ones stay in the server. */
export function asHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof RequestError) return ofRequest(error);
  if (error instanceof AppError) return new HttpError(error.status, error.message, error);
  const fault = error instanceof KilnError ? STORE_FAULTS[error.code] : undefined;
  if (fault !== undefined) return new HttpError(fault[0], fault[1], { code: (error as KilnError).code });
  const refusal = REFUSALS[(error as { code?: string } | null)?.code ?? ""];
  if (refusal !== undefined) return new HttpError(refusal[0], refusal[1], { code: refusal[2] });
  // Fastify and node blame the request, say for a body that breaks off.
  const status = (error as { statusCode?: number } | null)?.statusCode ?? 500;
  if (status >= 400 && status < 500) {
    return new HttpError(status, "the request could not be read: send it whole", { code: "bad_request" });
  }
  return new HttpError(500, "the server failed on this request", { code: "internal_error" });
}

/** An error of node's HTTP parser, with the bytes in which it found it. */
export interface ParserFault {
  readonly code?: string;
  readonly rawPacket?: unknown;
}

/** The refusal of something that node could not parse as a request. */
export function parserError({ code, rawPacket }: ParserFault): HttpError {
  const head = Buffer.isBuffer(rawPacket) ? rawPacket.toString("latin1", 0, 4096) : "";
  const otherVersion = / HTTP\/(?!1\.[01]\s)\d/.test(head);
  const known = code === "HPE_INVALID_VERSION" && !otherVersion ? undefined : PARSER_REFUSALS[code ?? ""];
  const [status, message, name] = known ?? NO_REQUEST;
  return new HttpError(status, message, { code: name });
}

const NO_REQUEST: Refusal = [400, "this is not a valid HTTP request", "bad_request"];
const PARSER_REFUSALS: Record<string, Refusal> = {
  HPE_HEADER_OVERFLOW: [431, "the request headers are too large: leave some out", "headers_too_large"],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, "the request body is too large: send less at once", "body_too_large"],
  HPE_INVALID_VERSION: [505, "this server speaks HTTP/1.1", "bad_http_version"],
  ERR_HTTP_REQUEST_TIMEOUT: [408, "the request took too long to arrive: send it again", "request_timeout"],
};
