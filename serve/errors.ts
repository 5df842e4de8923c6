/** A refusal or failure that the client is told about. `http/errors.ts` turns it into OpenAI's envelope. */
export class ServeError extends Error {
  /** HTTP status. */
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
    options: { param?: string; code?: string; headers?: Record<string, string> } = {},
  ) {
    super(message);
    this.name = "ServeError";
    this.status = status;
    this.param = options.param ?? null;
    this.code = options.code ?? null;
    this.headers = options.headers ?? {};
  }
}

/** 400 for the named field of the request. */
export function badRequest(param: string, message: string, code?: string): ServeError {
  return new ServeError(400, message, code === undefined ? { param } : { param, code });
}
