import { KilnError } from "../../core/errors.ts";

/** Why a request was refused or ended early. */
export type RequestErrorCode =
  | "invalid_request"
  | "context_length_exceeded"
  | "queue_full"
  | "queue_timeout"
  | "engine_unavailable"
  | "engine_error"
  | "shutting_down"
  | "client_closed"
  | "internal_error";

/** A refusal or failure of one request, worded for whoever sent it. Details of a failure are its `cause`. */
export class RequestError extends KilnError {
  declare readonly code: RequestErrorCode;
  /** Dotted path of the offending request field, or null. */
  readonly param: string | null;

  constructor(code: RequestErrorCode, message: string, options: { param?: string; cause?: unknown } = {}) {
    super(message, { code, cause: options.cause });
    this.name = "RequestError";
    this.param = options.param ?? null;
  }
}

/** The refusal of a request for the value of one field. */
export function invalid(param: string, message: string): RequestError {
  return new RequestError("invalid_request", message, { param });
}

/** What a request ends with when the model failed on it. */
export function asRequestError(cause: unknown): RequestError {
  if (cause instanceof RequestError) return cause;
  // Not this request's fault: it may be sent again.
  const lost = cause instanceof KilnError && cause.code === "device_lost";
  if (lost) return new RequestError("engine_unavailable", "the device was lost; try again soon", { cause });
  return new RequestError("engine_error", "the model failed on this request: see standard error", { cause });
}

export const unresponsive = () => new RequestError("engine_unavailable", "the model does not respond: retry");

export const shuttingDown = () => new RequestError("shutting_down", "the server is shutting down");

export const cutOff = () =>
  new RequestError("shutting_down", "the server shut down before the request was done; try again later");

export const waitedTooLong = () =>
  new RequestError("queue_timeout", "the request waited too long for its turn; try again later");

export const closedByClient = () => new RequestError("client_closed", "the client closed the request");
