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
