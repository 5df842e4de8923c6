import type { FinishReason, Request } from "./types.ts";

/** What happened to one sequence, and when, in milliseconds of a monotonic clock; null: it did not, or not yet. */
export interface SequenceTimes {
  readonly accepted: number;
  /** When its first step began. */
  started: number | null;
  firstToken: number | null;
  lastToken: number | null;
  /** Tokens generated. */
  generated: number;
}

/** Is told what an engine does, so that others can count and time it. Must not throw. */
export interface EngineObserver {
  /** All sequences of one call: each prompt with its choices. */
  accepted(requests: readonly Request[]): void;
  /** A step has computed so many tokens, of prompts and answers. */
  stepped(tokens: number): void;
  /** A sequence got a token, `ms` after the one before it, or for its first after it was accepted. */
  token(ms: number, isFirst: boolean): void;
  ended(request: Request, finish: FinishReason, times: SequenceTimes, now: number): void;
}

/** Notes that a sequence got a token now, and tells the observers. */
export function timeToken(times: SequenceTimes, observers: Iterable<EngineObserver>): void {
  const now = performance.now();
  const isFirst = times.firstToken === null;
  const ms = now - (times.lastToken ?? times.accepted);
  times.firstToken ??= now;
  times.lastToken = now;
  times.generated++;
  for (const observer of observers) observer.token(ms, isFirst);
}
