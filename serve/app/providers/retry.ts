import type { IncomingHttpHeaders } from "node:http";
import type { Clock } from "./clock.ts";

export const TRIES = 3;
const RETRY_AFTER_MS = 30_000;

/** Statuses after which the same request may succeed. */
export const TRANSIENT = new Set([408, 409, 425, 429, 500, 502, 503, 504]);

/** What `Retry-After` says, in seconds or as a date; null where it says nothing, 30 s at most. */
export function retryAfterMs({ "retry-after": value }: IncomingHttpHeaders, now: number): number | null {
  if (value === undefined) return null;
  const ms = /^\s*\d+(\.\d+)?\s*$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), RETRY_AFTER_MS);
}

/** How long to wait after failed try number `tries`, from 1: what the provider asks for, else up to 0.5 s, 1 s and so on. */
export const retryDelay = (tries: number, asked: number | null, { random }: Pick<Clock, "random">): number =>
  asked ?? random() * Math.min(8000, 500 * 2 ** (tries - 1));

const FAILURES = 5;
const WINDOW_MS = 30_000;
const OPEN_MS = 30_000;

/** Refuses calls of a provider for a while after failures: 5 within 30 s open it for 30 s, then one call tries. */
export class Breaker {
  readonly #clock: Pick<Clock, "now">;
  #failures: number[] = [];
  #openedAt: number | null = null;
  #probing = false;

  constructor(clock: Pick<Clock, "now">) {
    this.#clock = clock;
  }

  get state(): "closed" | "open" | "half_open" {
    if (this.#openedAt === null) return "closed";
    return this.#clock.now() - this.#openedAt < OPEN_MS ? "open" : "half_open";
  }

  /**
   * @returns what to call at the end of the call that may be made now, with whether the provider failed (null: it was ended here,
   * and says nothing of the provider); null where none may be made.
   */
  enter(): ((failed: boolean | null) => void) | null {
    const { state } = this;
    if (state === "open" || this.#probing) return null;
    const probes = state === "half_open";
    this.#probing = probes;
    return (failed) => {
      if (probes) this.#probing = false;
      const now = this.#clock.now();
      if (failed) {
        this.#failures = [...this.#failures.filter((at) => now - at < WINDOW_MS), now];
        if (probes || this.#failures.length >= FAILURES) this.#openedAt = now;
      } else if (probes && failed === false) {
        this.#openedAt = null;
        this.#failures = [];
      }
    };
  }
}

/** Requests and tokens of a minute that a provider allows, by its settings and by what its answers say is left. */
export class TokenBucket {
  readonly #clock: Clock;
  readonly #rates: { readonly requests: number; readonly tokens: number };
  readonly #left: { requests: number; tokens: number };
  #at: number;
  /** Until when the provider has said that there is nothing left. */
  #closedUntil = 0;

  constructor(clock: Clock, { rpm = Infinity, tpm = Infinity }: { rpm?: number; tpm?: number }) {
    this.#clock = clock;
    this.#rates = { requests: rpm, tokens: tpm };
    this.#left = { requests: rpm, tokens: tpm };
    this.#at = clock.now();
  }

  /** Takes a request of about so many tokens. @returns milliseconds that it must wait first. */
  take(tokens: number): number {
    const now = this.#clock.now();
    const minutes = (now - this.#at) / 60_000;
    this.#at = now;
    let wait = Math.max(0, this.#closedUntil - now);
    for (const [kind, amount] of [
      ["requests", 1],
      ["tokens", tokens],
    ] as const) {
      const rate = this.#rates[kind];
      if (rate === Infinity) continue;
      // More than a minute allows waits for a full minute's, or it never would be sent.
      const wanted = Math.min(amount, rate);
      this.#left[kind] = Math.min(rate, this.#left[kind] + minutes * rate) - wanted;
      if (this.#left[kind] < 0) wait = Math.max(wait, (-this.#left[kind] / rate) * 60_000);
    }
    return wait;
  }

  /** Gives back what `take` took, for a request that was not sent. */
  giveBack(tokens: number): void {
    this.#left.requests += 1;
    this.correct(Math.min(tokens, this.#rates.tokens), 0);
  }

  /** The request had so many tokens, not as many as it was taken for. */
  correct(taken: number, had: number): void {
    if (this.#rates.tokens !== Infinity) this.#left.tokens += Math.min(taken, this.#rates.tokens) - had;
  }

  /** Heeds `x-ratelimit-remaining-*` and `x-ratelimit-reset-*`. */
  heed(headers: IncomingHttpHeaders): void {
    for (const kind of ["requests", "tokens"]) {
      const remaining = headers[`x-ratelimit-remaining-${kind}`];
      const reset = durationMs(headers[`x-ratelimit-reset-${kind}`]);
      if (remaining !== undefined && Number(remaining) <= 0 && reset !== null)
        this.#closedUntil = Math.max(this.#closedUntil, this.#clock.now() + Math.min(reset, 3_600_000));
    }
  }
}

const UNITS: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** `6m0s`, `20ms`, or seconds; null for what is neither. */
function durationMs(value: string | string[] | undefined): number | null {
  const text = String(value ?? "");
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000;
  if (!/^(\d+(\.\d+)?(h|ms|m|s))+$/.test(text)) return null;
  return [...text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s)/g)].reduce(
    (sum, [, number, unit]) => sum + Number(number) * UNITS[unit!]!,
    0,
  );
}
