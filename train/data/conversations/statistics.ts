import { quantile } from "../../../core/statistics/quantile.ts";
import { wordsOf } from "../../../tokenizer/text/index.ts";
import { wilsonInterval } from "../../metrics/significance.ts";
import { findDuplicates } from "./duplicates.ts";
import type { ConversationRecord } from "./record.ts";

/** The mean and quantiles (nearest rank) of numbers; all 0 where there is none. */
export interface Spread {
  mean: number;
  p50: number;
  p95: number;
  max: number;
}

/** Counts of conversations, under the names of reports. */
export interface ConversationStatistics {
  total_conversations: number;
  total_messages: number;
  turns: Spread;
  /** Characters (code points) of a message, by role. */
  chars: Record<string, Spread>;
  sessions: number;
  /** Of those that have a session. */
  conversations_per_session: number;
  models: Record<string, number>;
  ratings: { up: number; down: number; rate: number | null; interval: [number, number] | null };
  languages: Record<string, number>;
  /** By day, UTC. */
  per_day: Record<string, number>;
  duplicates: { exact: number; near: number };
  /** Different words over all, of the first 10,000 words. */
  type_token_ratio: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const mean = values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;
  return { mean, p50: quantile(sorted, 0.5), p95: quantile(sorted, 0.95), max: sorted.at(-1) ?? 0 };
}

function add(counts: Map<string, number>, key: unknown): void {
  if (typeof key === "string" || typeof key === "number")
    counts.set(String(key), (counts.get(String(key)) ?? 0) + 1);
}

const sorted = (counts: ReadonlyMap<string, number>) =>
  Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)));

/** Lengths of messages by role, in the measure given. */
export function byRole<T>(
  list: readonly ConversationRecord[],
  measure: (text: string) => T,
): Map<string, T[]> {
  const found = new Map<string, T[]>();
  for (const { messages } of list)
    for (const { role, content } of messages) {
      const own = found.get(role) ?? [];
      found.set(role, own);
      own.push(measure(content));
    }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Counts conversations. `languageOf` tells the language of a text where the metadata does not. */
export function conversationStatistics(
  list: readonly ConversationRecord[],
  { near = 0.8, languageOf }: { near?: number; languageOf?: (text: string) => string } = {},
): ConversationStatistics {
  const [models, languages, days, sessions] = Array.from({ length: 4 }, () => new Map<string, number>());
  const words: string[] = [];
  let [up, down] = [0, 0];
  for (const { messages, metadata } of list) {
    add(models, metadata.model);
    add(languages, metadata.language ?? languageOf?.(messages.map(({ content }) => content).join("\n")));
    add(sessions, metadata.session_id);
    const { created_at: at } = metadata;
    if (typeof at === "number" && Math.abs(at) <= 8.64e15) add(days, new Date(at).toISOString().slice(0, 10));
    if (metadata.rating === 1) up++;
    if (metadata.rating === -1) down++;
    for (const { content } of messages)
      if (words.length < 10_000) words.push(...wordsOf(content).slice(0, 10_000));
  }
  const first = words.slice(0, 10_000);
  const duplicates = [...findDuplicates(list, { exact: true, near, keep: "first" }).values()];
  const exact = duplicates.filter(({ reason }) => reason === "exact_duplicate").length;
  const inSessions = [...sessions.values()].reduce((a, b) => a + b, 0);
  return {
    total_conversations: list.length,
    total_messages: list.reduce((sum, { messages }) => sum + messages.length, 0),
    turns: spreadOf(list.map(({ messages }) => messages.length)),
    chars: Object.fromEntries(
      [...byRole(list, (text) => [...text].length)].map(([role, lengths]) => [role, spreadOf(lengths)]),
    ),
    sessions: sessions.size,
    conversations_per_session: sessions.size === 0 ? 0 : inSessions / sessions.size,
    models: sorted(models),
    ratings: {
      up,
      down,
      rate: up + down === 0 ? null : up / (up + down),
      interval: up + down === 0 ? null : wilsonInterval(up, up + down),
    },
    languages: sorted(languages),
    per_day: sorted(days),
    duplicates: { exact, near: duplicates.length - exact },
    type_token_ratio: first.length === 0 ? 0 : new Set(first).size / first.length,
  };
}
