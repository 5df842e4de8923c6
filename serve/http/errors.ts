import { ServeError } from "../errors.ts";

/** OpenAI's error envelope: all four keys always present. */
export interface ErrorEnvelope {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** The only place that makes an error body. */
export function envelope(error: ServeError): ErrorEnvelope {
  const { message, status, param, code } = error;
  return { error: { message, type: errorType(status), param, code } };
}

function errorType(status: number): string {
  if (status >= 500) return "server_error";
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  if (status === 429) return "rate_limit_error";
  return "invalid_request_error";
}

/** Messages for what fastify itself refuses, by its code. */
const REFUSALS: Record<string, [status: number, message: string, code: string]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, "the request body is too large", "body_too_large"],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    415,
    "the content type must be application/json",
    "unsupported_media_type",
  ],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: [400, "the body does not have the announced length", "bad_request"],
  FST_ERR_CTP_EMPTY_JSON_BODY: [400, "the request body is empty; send a JSON object", "invalid_json"],
  FST_ERR_BAD_URL: [400, "the path is not a valid URL", "bad_url"],
};

/** Any thrown value as the error that the client sees. Details of unexpected ones stay in the server. */
export function asServeError(error: unknown): ServeError {
  if (error instanceof ServeError) return error;
  const refusal = REFUSALS[(error as { code?: string } | null)?.code ?? ""];
  if (refusal !== undefined) return new ServeError(refusal[0], refusal[1], { code: refusal[2] });
  // What fastify and node blame on the request, such as a body that breaks off.
  const status = (error as { statusCode?: number } | null)?.statusCode ?? 500;
  if (status >= 400 && status < 500) {
    return new ServeError(status, "the request could not be read", { code: "bad_request" });
  }
  return new ServeError(500, "the server failed on this request", { code: "internal_error" });
}

/** What node's own HTTP parser refuses before there is a request, by its code. */
export function parserError(code: string | undefined): ServeError {
  if (code === "HPE_HEADER_OVERFLOW") {
    return new ServeError(431, "the request headers are too large", { code: "headers_too_large" });
  }
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") {
    return new ServeError(408, "the request took too long to arrive", { code: "request_timeout" });
  }
  return new ServeError(400, "this is not a valid HTTP request", { code: "bad_request" });
}
