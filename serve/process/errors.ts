import { KilnError } from "../../core/errors.ts";
import { RequestError, type RequestErrorCode } from "../engine/errors.ts";
import type { WrittenError } from "./messages.ts";

/** An error as plain data: a structured clone would keep its message alone. */
export function writtenError(error: unknown): WrittenError {
  const message = error instanceof Error ? error.message : String(error);
  const { code = null, exitCode = 1 } = error instanceof KilnError ? error : {};
  return { message, code, exitCode, isRefusal: error instanceof RequestError };
}

export function readError({ message, code, exitCode, isRefusal }: WrittenError): Error {
  if (isRefusal) return new RequestError(code as RequestErrorCode, message);
  return code === null ? new Error(message) : new KilnError(message, { code, exitCode });
}
