import { forEachNearPair, shinglesOf, starsOf } from "../../../tokenizer/text/index.ts";
import type { DedupeSettings } from "./config.ts";
import { type ConversationRecord, contentHash, conversationWords, inOrder } from "./record.ts";

export interface Duplicate {
  reason: "exact_duplicate" | "near_duplicate";
  /** The id of the conversation that it repeats. */
  of: string;
}

const charactersOf = ({ messages }: ConversationRecord) =>
  messages.reduce((sum, { content }) => sum + content.length, 0);

/** The one to keep first: one with a sufficient rating; by `best` then the best rated and longest; then the earliest. */
function preferred(
  list: readonly ConversationRecord[],
  keep: DedupeSettings["keep"],
  leastRating: number,
): ConversationRecord[] {
  const rating = ({ metadata }: ConversationRecord) => metadata.rating ?? 0;
  const isLow = (record: ConversationRecord) => Number(rating(record) < leastRating);
  return inOrder(list).sort(
    (a, b) =>
      isLow(a) - isLow(b) ||
      (keep === "best" ? rating(b) - rating(a) || charactersOf(b) - charactersOf(a) : 0),
  );
}

/**
 * Conversations that repeat another, with which: exactly, but for case, punctuation and width; or nearly, by the similarity of
 * their runs of three words. A near duplicate is one of a conversation that stays: a chain of small changes is not all one.
 * What `others` hold already repeats those. `keep: all` finds nothing but what others hold.
 */
export function findDuplicates(
  list: readonly ConversationRecord[],
  { exact, near, keep }: Pick<DedupeSettings, "exact" | "near" | "keep">,
  {
    others = [],
    leastRating = Number.NEGATIVE_INFINITY,
  }: { others?: readonly ConversationRecord[]; leastRating?: number } = {},
): Map<ConversationRecord, Duplicate> {
  const found = new Map<ConversationRecord, Duplicate>();
  const own = keep === "all" && others.length === 0 ? [] : preferred(list, keep, leastRating);
  const all = [...inOrder(others), ...own];
  const isOther = (i: number) => i < others.length;
  const add = (i: number, centre: number, reason: Duplicate["reason"]) => {
    if (isOther(i) || (keep === "all" && !isOther(centre))) return;
    found.set(all[i], { reason, of: all[centre].id });
    if (keep === "drop_all" && !isOther(centre)) found.set(all[centre], { reason, of: all[i].id });
  };
  const left: number[] = [];
  const firstOf = new Map<string, number>();
  for (const [i, record] of all.entries()) {
    const key = exact ? contentHash(record) : String(i);
    const first = firstOf.get(key);
    if (first !== undefined) add(i, first, "exact_duplicate");
    else firstOf.set(key, i);
    if (!found.has(record)) left.push(i);
  }
  if (near === 0 || own.length === 0) return found;
  const shingles = left.map((i) => shinglesOf(conversationWords(all[i])));
  for (const [at, centre] of starsOf(shingles, near).entries())
    if (centre !== at) add(left[at], left[centre], "near_duplicate");
  return found;
}

/**
 * Which conversations belong together, by the number of one of them: those of a session or name, of the same content, and near
 * duplicates, and all that follows from these. `near`: 0 looks for no near ones, null for no duplicates at all.
 */
export function togetherGroups(list: readonly ConversationRecord[], near: number | null): Int32Array {
  const parent = Int32Array.from(list, (_, i) => i);
  const root = (of: number) => {
    let i = of;
    while (parent[i] !== i) {
      parent[i] = parent[parent[i]];
      i = parent[i];
    }
    return i;
  };
  const join = (a: number, b: number) => {
    const [x, y] = [root(a), root(b)];
    parent[Math.max(x, y)] = Math.min(x, y);
  };
  const firstOf = new Map<string, number>();
  for (const [i, record] of list.entries()) {
    const { session_id: session } = record.metadata;
    const keys = [`id ${record.id}`];
    if (near !== null) keys.push(`content ${contentHash(record)}`);
    if (typeof session === "string" || typeof session === "number") keys.push(`session ${session}`);
    for (const key of keys) {
      const first = firstOf.get(key);
      if (first === undefined) firstOf.set(key, i);
      else join(i, first);
    }
  }
  if (near !== null && near > 0) {
    const shingles = list.map((record) => shinglesOf(conversationWords(record)));
    forEachNearPair(shingles, near, join, (a, b) => root(a) === root(b));
  }
  return parent.map((_, i) => root(i));
}
