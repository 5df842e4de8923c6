import { AppError } from "../app_error.ts";

export interface UpstreamFault {
  readonly code:
    | "upstream_refused"
    | "upstream_key_refused"
    | "upstream_unavailable"
    | "upstream_rate_limited"
    | "upstream_timeout"
    | "upstream_invalid"
    | "upstream_forbidden"
    | "upstream_open"
    | "interrupted";
  readonly message: string;
  /** Whether the same request may succeed a moment later. */
  readonly transient?: boolean;
  /** How long the provider asks to wait. */
  readonly retryAfterMs?: number | null;
  readonly cause?: unknown;
}

const statuses: Partial<Record<UpstreamFault["code"], number>> = {
  upstream_rate_limited: 429,
  upstream_timeout: 504,
  upstream_unavailable: 503,
  upstream_open: 503,
};

/** What went wrong at a provider, in words that a client may read: never its key, never its address. */
export class UpstreamError extends AppError {
  declare readonly code: UpstreamFault["code"];
  readonly transient: boolean;
  readonly retryAfterMs: number | null;

  constructor({ code, message, transient = false, retryAfterMs = null, cause }: UpstreamFault) {
    super(statuses[code] ?? 502, code, message);
    this.name = "UpstreamError";
    this.transient = transient;
    this.retryAfterMs = retryAfterMs;
    this.cause = cause;
  }
}
