import { indexMessages, newId, type Store, searchMessages, words } from "../../store/index.ts";
import { AppError, notFound } from "../app_error.ts";
import { recordEvents } from "../events.ts";
import type {
  Citation,
  Conversation,
  ConversationList,
  ConversationPatch,
  Feedback,
  FeedbackBody,
  Message,
  MessageList,
  NewConversation,
  SearchResult,
} from "../protocol.ts";
import type { Hub } from "./hub.ts";
import { type MessageRow, messageColumns, messageOf, withFeedback } from "./message_rows.ts";

/** How long a deleted conversation stays in the bin. */
const BIN_MS = 30 * 24 * 3600_000;

type ConversationRow = Omit<Conversation, "pinned" | "consent" | "running"> & {
  pinned: number;
  consent: number;
  running: number;
};

const conversationColumns =
  "c.id, c.title, c.model, c.system, c.leaf_id, c.pinned, c.consent, c.created_at, c.updated_at, CASE WHEN EXISTS (SELECT 1 FROM message s WHERE s.status = 'streaming' AND s.conversation_id = c.id) THEN 1 ELSE 0 END AS running, (SELECT n.notice_id FROM conversation_notice n WHERE n.conversation_id = c.id) AS notice_id";

const conversationOf = ({ pinned, consent, running, ...row }: ConversationRow): Conversation => ({
  ...row,
  ...{ pinned: pinned === 1, consent: consent === 1, running: running === 1 },
});

/** The branch that ends at the message `m` of a first SELECT, from there up, `depth` from 1. */
const branchFrom = (anchor: string) =>
  `WITH RECURSIVE branch (id, parent_id, depth) AS (${anchor} UNION ALL SELECT p.id, p.parent_id, b.depth + 1 FROM branch b JOIN message p ON p.id = b.parent_id WHERE b.depth < ?)`;

/**
 * The conversations of one user. Every query names the user, so that another's id finds nothing. Messages are rows of a tree:
 * those with one parent are branches of each other, and `leaf_id` says where the branch ends that is shown.
 */
export class Chats {
  readonly #store: Store;
  readonly #user: string;
  readonly #hub: Hub | null;
  readonly #changed: (conversationId: string) => void;

  /** @param hub told of what changes. @param changed of conversations of which data is made otherwise than before. */
  constructor(
    store: Store,
    userId: string,
    hub: Hub | null = null,
    changed: (conversationId: string) => void = () => {},
  ) {
    this.#store = store;
    this.#user = userId;
    this.#hub = hub;
    this.#changed = changed;
  }

  /** Tells the user's connections how a conversation is now. @throws AppError 404. */
  async announce(id: string): Promise<Conversation> {
    const conversation = await this.get(id);
    this.#hub?.publish(this.#user, { type: "conversation.update", conversation }, id);
    return conversation;
  }

  async list(limit: number, before: string | null): Promise<ConversationList> {
    const [at, id] = before === null ? [Number.MAX_SAFE_INTEGER, ""] : cursorOf(before);
    const rows = await this.#store.all<ConversationRow>(
      `SELECT ${conversationColumns} FROM conversation c WHERE c.user_id = ? AND c.deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM comparison k WHERE k.conversation_id = c.id) AND (c.updated_at < ? OR (c.updated_at = ? AND c.id < ?)) ORDER BY c.updated_at DESC, c.id DESC LIMIT ?`,
      [this.#user, at, at, id, limit + 1],
    );
    const shown = rows.slice(0, limit);
    const last = shown.at(-1);
    const next = rows.length > limit && last ? `${last.updated_at}_${last.id}` : null;
    return { conversations: shown.map(conversationOf), next };
  }

  /** @throws AppError 404. */
  async get(id: string): Promise<Conversation> {
    const [row] = await this.#store.all<ConversationRow>(
      `SELECT ${conversationColumns} FROM conversation c WHERE c.id = ? AND c.user_id = ? AND c.deleted_at IS NULL`,
      [id, this.#user],
    );
    if (row === undefined) throw notFound("conversation");
    return conversationOf(row);
  }

  async create({ title = "", model, system, consent = false }: NewConversation): Promise<Conversation> {
    const now = Date.now();
    const made: Conversation = {
      ...{
        id: newId(),
        title: title || null,
        model: model ?? null,
        system: system || null,
        leaf_id: null,
        notice_id: null,
      },
      ...{ pinned: false, consent, running: false, created_at: now, updated_at: now },
    };
    await this.#store.run(
      "INSERT INTO conversation (id, user_id, title, model, system, consent, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      [made.id, this.#user, made.title, made.model, made.system, consent, now, now],
    );
    this.#hub?.publish(this.#user, { type: "conversation.update", conversation: made }, made.id);
    return made;
  }

  /** @throws AppError 404. */
  async patch(id: string, { leaf_id, deleted, ...fields }: ConversationPatch): Promise<Conversation> {
    const set: [string, string | boolean | null][] = Object.entries(fields);
    if (leaf_id !== undefined) set.push(["leaf_id", await this.#leafBelow(id, leaf_id)]);
    const bin = deleted === false ? ", deleted_at = NULL" : "";
    const only = deleted === false ? "" : " AND deleted_at IS NULL";
    const changed = await this.#store.run(
      `UPDATE conversation SET updated_at = updated_at${bin}${set.map(([name]) => `, ${name} = ?`).join("")} WHERE id = ? AND user_id = ?${only}`,
      [...set.map(([, value]) => value), id, this.#user],
    );
    if (changed === 0) throw notFound("conversation");
    return this.announce(id);
  }

  /** Puts a conversation into the bin, out of which `patch` takes it with `deleted: false`. @throws AppError 404. */
  async remove(id: string): Promise<void> {
    const changed = await this.#store.run(
      "UPDATE conversation SET deleted_at = ? WHERE id = ? AND user_id = ? AND deleted_at IS NULL",
      [Date.now(), id, this.#user],
    );
    if (changed === 0) throw notFound("conversation");
    this.#hub?.publish(this.#user, { type: "conversation.deleted", conversation_id: id }, id);
  }

  /** The end of the branch that is shown, or what comes before the message `before` in its branch. @throws AppError 404. */
  async messages(conversationId: string, limit: number, before: string | null): Promise<MessageList> {
    const end =
      "SELECT m.id, m.parent_id, 1 FROM message m JOIN conversation o ON o.id = m.conversation_id WHERE m.conversation_id = ? AND m.user_id = ? AND o.deleted_at IS NULL AND m.id =";
    const anchor =
      before === null
        ? `${end} o.leaf_id`
        : `${end} (SELECT parent_id FROM message WHERE id = ? AND conversation_id = m.conversation_id)`;
    const rows = await this.#store.all<MessageRow>(
      `${branchFrom(anchor)} SELECT ${messageColumns} FROM branch b JOIN message m ON m.id = b.id ${withFeedback} ORDER BY b.depth DESC`,
      [conversationId, this.#user, ...(before === null ? [] : [before]), limit],
    );
    if (rows.length === 0) await this.get(conversationId); // it is empty, or it is not there
    const messages = await this.#withSiblings(rows);
    return { messages, before: rows[0]?.parent_id == null ? null : rows[0].id };
  }

  /** @throws AppError 404. */
  async message(id: string): Promise<Message> {
    const rows = await this.#store.all<MessageRow>(
      `SELECT ${messageColumns} FROM message m JOIN conversation c ON c.id = m.conversation_id ${withFeedback} WHERE m.id = ? AND m.user_id = ? AND c.deleted_at IS NULL`,
      [id, this.#user],
    );
    if (rows.length === 0) throw notFound("message");
    const [message] = await this.#withSiblings(rows);
    return message!;
  }

  async #withSiblings(rows: readonly MessageRow[]): Promise<Message[]> {
    if (rows.length === 0) return [];
    const parents = rows.flatMap(({ parent_id }) => parent_id ?? []);
    const root = rows.length > parents.length ? rows[0]!.conversation_id : null;
    // Two reads of one index each: an OR of both would read the whole conversation.
    const below = `SELECT id, parent_id FROM message WHERE parent_id IN (${parents.map(() => "?").join(", ")})`;
    const found = await this.#store.all<{ id: string; parent_id: string | null }>(
      `${below} UNION ALL SELECT id, parent_id FROM message WHERE parent_id IS NULL AND conversation_id = CAST(? AS TEXT)`,
      [...parents, root],
    );
    const byParent = new Map<string | null, string[]>();
    for (const { id, parent_id } of found) byParent.set(parent_id, [...(byParent.get(parent_id) ?? []), id]);
    const cited = await this.#citations(rows);
    return rows.map((row) => ({
      ...messageOf(row, (byParent.get(row.parent_id) ?? []).sort()),
      citations: cited.get(row.id) ?? [],
    }));
  }

  /** What answers were made from; of a document that was deleted since, nothing. */
  async #citations(rows: readonly MessageRow[]): Promise<Map<string, Citation[]>> {
    const ids = rows.flatMap(({ id, cited }) => (cited ? [id] : []));
    if (ids.length === 0) return new Map();
    const found = await this.#store.all<Citation & { message_id: string }>(
      `SELECT c.message_id, c.n, c.document_id, d.name, k.page, k.heading, k.ordinal, substr(k.text, 1, 500) AS quote FROM citation c JOIN document d ON d.id = c.document_id JOIN chunk k ON k.id = c.chunk_id WHERE (d.user_id = ? OR d.notice_id IS NOT NULL) AND c.message_id IN (${ids.map(() => "?").join(", ") || "NULL"}) ORDER BY c.n`,
      [this.#user, ...ids],
    );
    const byMessage = new Map<string, Citation[]>();
    for (const { message_id, ...citation } of found)
      byMessage.set(message_id, [...(byMessage.get(message_id) ?? []), citation]);
    return byMessage;
  }

  /** The newest end of a branch below a message. @throws AppError 404. */
  async #leafBelow(conversationId: string, messageId: string): Promise<string> {
    const [leaf] = await this.#store.all<{ id: string }>(
      "WITH RECURSIVE below (id) AS (SELECT m.id FROM message m WHERE m.id = ? AND m.conversation_id = ? AND m.user_id = ? UNION ALL SELECT c.id FROM below b JOIN message c ON c.parent_id = b.id) SELECT b.id FROM below b WHERE NOT EXISTS (SELECT 1 FROM message c WHERE c.parent_id = b.id) ORDER BY b.id DESC LIMIT 1",
      [messageId, conversationId, this.#user],
    );
    if (leaf === undefined) throw notFound("message in this conversation");
    return leaf.id;
  }

  /** A message of the user beside another, with its own text. @throws AppError 404; 409 for an answer. */
  async edit(messageId: string, content: string): Promise<Message> {
    const { conversation_id, parent_id, role } = await this.message(messageId);
    if (role !== "user")
      throw new AppError(
        409,
        "not_editable",
        "only messages of the user can be edited: send a correction of an answer as feedback",
      );
    const id = newId();
    await this.#store.transaction(async (tx) => {
      const now = Date.now();
      await tx.run(
        "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, created_at) VALUES (?, ?, ?, ?, 'user', ?, 'complete', ?)",
        [id, conversation_id, this.#user, parent_id, content, now],
      );
      await tx.run("UPDATE conversation SET leaf_id = ?, updated_at = ? WHERE id = ?", [
        id,
        now,
        conversation_id,
      ]);
      await indexMessages(tx, [{ id, user_id: this.#user, content }]);
      await recordEvents(tx, [
        { kind: "edit", at: now, userId: this.#user, conversationId: conversation_id, messageId },
      ]);
    });
    return this.message(id);
  }

  /** Messages that hold all words, the last of which may be a beginning, and then conversations whose title does. */
  async search(query: string, limit: number): Promise<SearchResult> {
    const { hits } = await searchMessages(this.#store, this.#user, query, { limit });
    const asked = words(query, false);
    const titles = await this.#store.all<{ id: string; title: string; updated_at: number }>(
      "SELECT id, title, updated_at FROM conversation WHERE user_id = ? AND deleted_at IS NULL AND title IS NOT NULL ORDER BY updated_at DESC LIMIT 5000",
      [this.#user],
    );
    const named = titles.filter(({ title }) => {
      const own = words(title);
      return asked.length > 0 && asked.every((word) => own.some((one) => one.startsWith(word)));
    });
    return {
      hits: [
        ...hits.map(({ id, conversation_id, title, content, created_at }) => ({
          ...{ conversation_id, title, message_id: id, excerpt: excerptOf(content, asked), created_at },
        })),
        ...named.map(({ id, title, updated_at }) => ({
          ...{ conversation_id: id, title, message_id: null, excerpt: title, created_at: updated_at },
        })),
      ].slice(0, limit),
    };
  }

  /** What the user thinks of an answer; `rating: 0` takes it back. @throws AppError 404, 409 for what is no answer. */
  async rate({ message_id, rating, reason = null, correction = null }: FeedbackBody): Promise<Feedback> {
    const { role, conversation_id, model, experiment_arm: arm } = await this.message(message_id);
    if (role !== "assistant")
      throw new AppError(409, "not_an_answer", "only answers can be rated", "message_id");
    const created_at = Date.now();
    await this.#store.transaction(async (tx) => {
      if (rating === 0)
        await tx.run("DELETE FROM feedback WHERE message_id = ? AND user_id = ?", [message_id, this.#user]);
      else
        await tx.run(
          "INSERT INTO feedback (id, message_id, user_id, rating, reason, correction, created_at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (message_id, user_id) DO UPDATE SET rating = excluded.rating, reason = excluded.reason, correction = excluded.correction, created_at = excluded.created_at",
          [newId(), message_id, this.#user, rating, reason, correction, created_at],
        );
      await recordEvents(tx, [
        {
          ...{ kind: "feedback", at: created_at, userId: this.#user, conversationId: conversation_id },
          ...{ messageId: message_id, model, arm, value: rating, data: { reason } },
        },
      ]);
    });
    this.#changed(conversation_id);
    return { message_id, rating, reason, correction, created_at };
  }
}

/** Removes what has been in the bin for its time, of all users. */
export const emptyBin = (store: Store, now: number = Date.now()): Promise<number> =>
  store.run("DELETE FROM conversation WHERE deleted_at < ?", [now - BIN_MS]);

function cursorOf(before: string): [number, string] {
  const [, at, id] = /^(\d{1,15})_([\w-]{1,64})$/.exec(before) ?? [];
  if (at === undefined || id === undefined)
    throw new AppError(422, "invalid_cursor", "before: must be `next` of the page before", "before");
  return [Number(at), id];
}

/** About 160 characters around the first of the words that is there as it was written. */
function excerptOf(content: string, asked: readonly string[]): string {
  const lower = content.toLowerCase();
  const at = Math.max(
    0,
    Math.min(...asked.map((word) => lower.indexOf(word)).filter((place) => place >= 0), content.length) %
      (content.length || 1),
  );
  const start = Math.max(0, at - 60);
  const piece = content.slice(start, start + 160).replace(/\s+/g, " ");
  return `${start > 0 ? "…" : ""}${piece}${start + 160 < content.length ? "…" : ""}`;
}
