import type { BlockTable } from "./blocks.ts";
import type { FinishReason, PlanItem, Request } from "./types.ts";

/** Preemptions after which a request makes way for its betters only. */
const MAX_PREEMPTIONS = 3;

/** A request on its way through the engine. */
export interface Sequence {
  readonly request: Request;
  /** Prompt, then what was generated. */
  readonly tokens: number[];
  /** Positions whose K and V are in the cache. */
  computed: number;
  /** Those, and what the step in flight computes. */
  planned: number;
  /** Tokens that the step in flight samples: one at most, except while the step after it is planned. */
  coming: number;
  readonly table: BlockTable;
  /** Positions that are computed of it at most: what an answer's last token leads to is not. */
  readonly most: number;
  readonly client: Client;
  running: boolean;
  /** Prompt tokens whose K and V were there when it first ran. */
  cachedTokens: number | null;
  preemptions: number;
  /** Waits until a running sequence has computed `until` positions that the two have in common. */
  following: { readonly leader: Sequence; readonly until: number } | null;
  /** Order among the sequences of its client: smaller first, then by `arrival`. */
  readonly rank: number;
  readonly arrival: number;
}

/** One of those who share the model: all sequences with its name. */
export interface Client {
  /** In order of service. */
  readonly waiting: Sequence[];
  /** Tokens of the waiting sequences. */
  waitingTokens: number;
  running: number;
  /** Waiting and running. */
  sequences: number;
  /** When it was last admitted, or arrived: of clients that run equally many, the lowest turn is next. */
  turn: number;
}

/** Whether it need not wait for another's prefix. */
export function isReady({ following }: Sequence): boolean {
  return following === null || !following.leader.running || following.leader.computed >= following.until;
}

/** Whether it has been preempted so often that only its betters may do so. */
export function isExempt({ preemptions }: Sequence): boolean {
  return preemptions >= MAX_PREEMPTIONS;
}

/** What two requests must have in common to share blocks, besides tokens. */
export function apartOf({ adapter, cacheSalt }: Request): string {
  return adapter === null && cacheSalt === null ? "" : JSON.stringify([adapter, cacheSalt]);
}

/** Positions that can be computed of it now. */
export function endOf({ tokens, coming, most }: Sequence): number {
  return Math.min(tokens.length + coming, most);
}

/** Positions that can still be planned. */
export function leftOf(sequence: Sequence): number {
  return endOf(sequence) - sequence.planned;
}

/** The next `count` positions of a sequence are computed. */
export function plan(sequence: Sequence, count: number): PlanItem {
  const { request, tokens, coming, planned: start } = sequence;
  const samples = start + count === tokens.length + coming && request.maxTokens > 0;
  sequence.planned += count;
  if (samples) sequence.coming++;
  return { id: request.id, start, count, samples };
}

/** Tokens generated so far. */
export function generated(sequence: Sequence): number {
  return sequence.tokens.length - sequence.request.prompt.length;
}

export function finishOf(sequence: Sequence): FinishReason | null {
  const { request, tokens, computed } = sequence;
  const count = generated(sequence);
  if (count === 0) return request.maxTokens === 0 && computed === tokens.length ? "length" : null;
  if (count > request.minTokens && request.stopTokenIds.has(tokens[tokens.length - 1])) return "stop";
  return count >= request.maxTokens ? "length" : null;
}

/** Puts a sequence in its place among others in order of service. */
export function insert(list: Sequence[], sequence: Sequence): void {
  let at = list.length;
  while (at > 0 && before(sequence, list[at - 1])) at--;
  list.splice(at, 0, sequence);
}

function before(a: Sequence, b: Sequence): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.arrival < b.arrival);
}
