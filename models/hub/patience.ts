import { KilnError } from "../../core/errors.ts";
import { firstLine } from "../../core/platform/files.ts";

/** A fault that may be gone at the next attempt. */
export class TemporaryFault extends Error {
  /** Milliseconds that the server asked to wait. */
  readonly retryAfter: number;

  constructor(message: string, retryAfter = 0) {
    super(message);
    this.retryAfter = retryAfter;
  }
}

/** What waiting and chance are; tests replace them. */
export interface Clock {
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
  random(): number;
}

export const systemClock: Clock = {
  sleep: (milliseconds, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(done, milliseconds);
      function done() {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      }
      signal?.addEventListener("abort", done);
    }),
  random: Math.random,
};

/** A server that asks for more is not waited for. */
const longestWait = 10 * 60_000;
const shortestPause = 1000;

/**
 * How often a failing request is repeated: after 1, 2, 4, … seconds, each shortened by up to a half at random so that many
 * clients do not return together, or after what the server asks for (`Retry-After`).
 */
export class Patience {
  readonly #tries: number;
  readonly #clock: Clock;
  readonly #signal: AbortSignal | undefined;
  #failures = 0;

  /** `tries` are made before the last fault is thrown. */
  constructor(tries: number, clock: Clock, signal?: AbortSignal) {
    this.#tries = tries;
    this.#clock = clock;
    this.#signal = signal;
  }

  /** Something was achieved: failures before it do not count. */
  progressed(): void {
    this.#failures = 0;
  }

  /** Waits before the next try. Throws `error` where another try is of no use, and a KilnError once the signal is given. */
  async afterFailure(error: unknown): Promise<void> {
    throwIfStopped(this.#signal);
    if (error instanceof KilnError) throw error;
    const fault = error instanceof TemporaryFault ? error : new TemporaryFault(reasonOf(error));
    if (++this.#failures >= this.#tries) throw fault;
    if (fault.retryAfter > longestWait) {
      const minutes = Math.ceil(fault.retryAfter / 60_000);
      throw new KilnError(`the hub asks to wait ${minutes} minutes (${fault.message}): try again then`);
    }
    const pause = shortestPause * 2 ** (this.#failures - 1) * (1 - this.#clock.random() / 2);
    await this.#clock.sleep(Math.max(pause, fault.retryAfter), this.#signal);
    throwIfStopped(this.#signal);
  }
}

export function throwIfStopped(signal?: AbortSignal): void {
  if (!signal?.aborted) return;
  throw new KilnError("stopped; what has come is kept, and the same command goes on from there", {
    code: "interrupted",
    exitCode: 130,
  });
}

/** Why a request failed: fetch hides it one or two causes deep. */
function reasonOf(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause !== undefined) inner = inner.cause;
  return (inner as NodeJS.ErrnoException).code ?? firstLine(inner);
}

/** Milliseconds from a `Retry-After` header: seconds, or a date. 0 where there is none. */
export function retryAfterOf(headers: Headers): number {
  const value = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now());
}
