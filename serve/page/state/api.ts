import { signal } from "@preact/signals";
import type { ErrorBody } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";

/** Whether the server wants to know who this is first. */
export const needsLogin = signal(false);

/** A refusal of a route, or `unreachable`. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Calls a route with a JSON body, or none. @throws ApiError */
export async function api<T = void>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await request(method, path, body);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** As `api`, but gives the response, for streams. A form goes as it is. @throws ApiError */
export async function request(method: string, path: string, body?: unknown): Promise<Response> {
  const response = await fetch(path, {
    method,
    ...(body instanceof FormData
      ? { body }
      : body !== undefined && {
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        }),
  }).catch(() => {
    throw new ApiError(0, "unreachable", t.app.unreachable);
  });
  if (response.ok) return response;
  if (response.status === 401) needsLogin.value = true;
  const error = await response
    .json()
    .then((envelope: ErrorBody) => envelope.error)
    .catch(() => null);
  throw new ApiError(
    response.status,
    error?.code ?? String(response.status),
    error?.message ?? t.app.failed(response.status),
  );
}

/** The SHA-256 of a text in hexadecimal, or null where the browser has none (an origin that is not secure). */
export async function sha256(text: string): Promise<string | null> {
  const digest = await crypto.subtle?.digest("SHA-256", new TextEncoder().encode(text));
  return digest
    ? [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("")
    : null;
}
