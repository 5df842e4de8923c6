import { hash } from "node:crypto";
import { isObject } from "../../../core/platform/files.ts";
import type { ChatMessage, Conversation } from "../../../tokenizer/index.ts";
import { wordsOf } from "../../../tokenizer/text/index.ts";

/** What is known of a conversation; further fields are kept. */
export interface ConversationMetadata extends Record<string, unknown> {
  session_id?: string;
  /** A pseudonym in a log. */
  user_id?: string;
  model?: string;
  rating?: -1 | 1;
  /** The answer that a person would have wanted. */
  correction?: string;
  /** Milliseconds since 1970, UTC. */
  created_at?: number;
  /** Of a line of a server's log: of several with one id the latest stands. */
  updated_at?: number;
  source?: string;
  /** ISO 639-3. */
  language?: string;
  tags?: string[];
}

/** A conversation with a name of its own, as logs and data files hold it. */
export interface ConversationRecord extends Conversation {
  id: string;
  metadata: ConversationMetadata;
}

export const sha256 = (text: string | Uint8Array) => hash("sha256", text, "hex");

/** A name that follows from what is said. */
const idOf = (messages: readonly ChatMessage[]) => `c-${sha256(JSON.stringify(messages)).slice(0, 16)}`;

/** The fields that name a conversation in data of others. */
const idFields = ["id", "conversation_id", "dialog_id", "dialogue_id"];

/** A conversation with its name and metadata in their places. Without a name it gets one that follows from what is said. */
export function recordOf({ messages, tools, metadata = {} }: Conversation): ConversationRecord {
  const { metadata: inner, ...outer } = metadata;
  const all: Record<string, unknown> = isObject(inner) ? { ...outer, ...inner } : metadata;
  const key = idFields.find((name) => ["string", "number", "bigint"].includes(typeof all[name]));
  const { [key ?? ""]: given, ...rest } = all;
  const clean = Object.entries(rest).flatMap(([name, value]) =>
    value === null || value === undefined || value === ""
      ? []
      : [[name, name === "created_at" || name === "rating" ? timeOrNumber(value) : value]],
  );
  const id = key === undefined || given === "" ? idOf(messages) : String(given);
  return { id, messages, ...(tools && { tools }), metadata: Object.fromEntries(clean) };
}

/** Tables hold numbers as text, Parquet as big integers; times of other programs are written out. */
function timeOrNumber(value: unknown): unknown {
  const number = Number(value);
  if (Number.isFinite(number)) return number;
  const time = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return Number.isNaN(time) ? value : time;
}

const timeOf = ({ metadata: { created_at: at } }: ConversationRecord) =>
  typeof at === "number" ? at : Number.POSITIVE_INFINITY;

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

/** The earliest first; what has no time or the same comes by name and content, so that the order of files decides nothing. */
export function inOrder(records: readonly ConversationRecord[]): ConversationRecord[] {
  const keys = new Map<ConversationRecord, string>();
  const content = (record: ConversationRecord) => {
    const key = keys.get(record) ?? JSON.stringify([record.messages, record.metadata]);
    keys.set(record, key);
    return key;
  };
  return [...records].sort((a, b) => {
    const [x, y] = [timeOf(a), timeOf(b)];
    if (x !== y) return x < y ? -1 : 1;
    return compare(a.id, b.id) || compare(content(a), content(b));
  });
}

/** SHA-256 of who says what, case, punctuation and width of characters left aside. */
export function contentHash({ messages }: Conversation): string {
  const said = messages.map(({ role, content, tool_calls: calls }) => {
    const words = wordsOf(content).join("");
    // What has no letters is told by its signs, calls by all that they hold.
    return `${role}\0${words === "" ? content.normalize("NFKC").trim() : words}${calls ? `\0${JSON.stringify(calls)}` : ""}`;
  });
  return sha256(said.join("\0\0"));
}

/** The words of all turns, in order. */
export const conversationWords = ({ messages }: Conversation) =>
  messages.flatMap(({ content }) => wordsOf(content));

/** Counts of names, in the order given, else of first sight. */
export function countsOf<N extends string>(
  names: readonly N[],
  order: readonly N[] = [...new Set(names)],
): Partial<Record<N, number>> {
  const entries = order.map((name) => [name, names.filter((other) => other === name).length] as const);
  return Object.fromEntries(entries.filter(([, count]) => count > 0)) as Partial<Record<N, number>>;
}

/** A conversation whose last answer a person has corrected, with what it should have been: nobody rated that down. */
export function corrected(record: ConversationRecord): ConversationRecord {
  const { correction, rating: _, ...metadata } = record.metadata;
  const last = record.messages.at(-1);
  if (typeof correction !== "string" || correction.trim() === "" || last?.role !== "assistant") return record;
  return {
    ...record,
    metadata,
    messages: [...record.messages.slice(0, -1), { ...last, content: correction }],
  };
}
