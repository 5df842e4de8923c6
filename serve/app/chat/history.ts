import { newId, type Store } from "../../store/index.ts";
import { AppError, notFound } from "../app_error.ts";
import { versionFor } from "../documents/search.ts";
import type { MessageStatus } from "../protocol.ts";
import type { Turn } from "./answers.ts";
import type { History } from "./context.ts";

/** A conversation and the end of one of its branches, as the context of an answer wants it. */
export interface Branch extends History {
  readonly conversationId: string;
  readonly title: string | null;
  readonly model: string | null;
  /** The version of the index of the user's documents; undefined where it was not read. */
  readonly documents?: number;
  /** The notice that the conversation is about. */
  readonly notice?: string | null;
  /** The last message; null for none. */
  readonly end: { readonly id: string; readonly status: MessageStatus } | null;
}

/** No tokenizer of ours makes longer tokens on average: what is beyond this many times the context is not read. */
const MOST_CHARS_PER_TOKEN = 8;

interface Row {
  title: string | null;
  model: string | null;
  system: string | null;
  documents: number;
  notice: string | null;
  id: string | null;
  parent_id: string | null;
  role: Turn["role"];
  content: string;
  status: MessageStatus;
}

/**
 * Reads the branch that ends at the message `end` (undefined: at the conversation's leaf; null: it is empty), no more of it
 * than could fit `contextLength` tokens: one statement, and one more to count what was left unread.
 * @throws AppError 404.
 */
export async function readBranch(
  store: Store,
  userId: string,
  {
    conversationId,
    end,
    contextLength,
  }: { conversationId: string; end?: string | null; contextLength: number },
): Promise<Branch> {
  const last =
    end === undefined ? "(SELECT leaf_id FROM conversation WHERE id = m.conversation_id)" : "CAST(? AS TEXT)";
  const rows = await store.all<Row>(
    `WITH RECURSIVE branch (id, parent_id, depth, chars) AS (SELECT m.id, m.parent_id, 1, length(m.content) FROM message m WHERE m.conversation_id = ? AND m.user_id = ? AND m.id = ${last} UNION ALL SELECT p.id, p.parent_id, b.depth + 1, b.chars + length(p.content) FROM branch b JOIN message p ON p.id = b.parent_id WHERE b.depth < ? AND b.chars < ?) SELECT c.title, c.model, c.system, ${versionFor("c.user_id")} AS documents, (SELECT notice_id FROM conversation_notice WHERE conversation_id = c.id) AS notice, m.id, m.parent_id, m.role, m.content, m.status FROM conversation c LEFT JOIN branch b ON 1 = 1 LEFT JOIN message m ON m.id = b.id WHERE c.id = ? AND c.user_id = ? AND c.deleted_at IS NULL ORDER BY b.depth DESC`,
    [
      ...[conversationId, userId, ...(end === undefined ? [] : [end])],
      ...[contextLength, contextLength * MOST_CHARS_PER_TOKEN, conversationId, userId],
    ],
  );
  const [first] = rows;
  if (first === undefined) throw notFound("conversation");
  if (end != null && first.id === null) throw notFound("message in this conversation");
  const turns = rows.flatMap(({ id, role, content }) => (id === null ? [] : [{ role, content }]));
  const tip = rows.at(-1)!;
  return {
    ...{ conversationId, title: first.title, model: first.model, system: first.system, turns },
    ...{ documents: first.documents, notice: first.notice },
    end: tip.id === null ? null : { id: tip.id, status: tip.status },
    unread: first.parent_id === null ? { messages: 0, chars: 0 } : await extentAbove(store, first.parent_id),
  };
}

async function extentAbove(store: Store, messageId: string): Promise<History["unread"]> {
  const [found] = await store.all<{ messages: number; chars: number | null }>(
    "WITH RECURSIVE above (parent_id, chars) AS (SELECT m.parent_id, length(m.content) FROM message m WHERE m.id = ? UNION ALL SELECT p.parent_id, length(p.content) FROM above a JOIN message p ON p.id = a.parent_id) SELECT count(*) AS messages, CAST(sum(chars) AS INTEGER) AS chars FROM above",
    [messageId],
  );
  return { messages: found!.messages, chars: found!.chars ?? 0 };
}

interface Begun {
  readonly system?: string | null;
  readonly parent_id?: string | null;
  readonly notice_id?: string | null;
}

/** The branch of a conversation that begins. @throws AppError 422 where it hangs on a message, 404 for a notice that is not there. */
export async function beginning(store: Store, begun: Begun): Promise<Branch> {
  const { system, parent_id = null, notice_id: notice = null } = begun;
  if (parent_id !== null)
    throw new AppError(
      422,
      "no_conversation",
      "parent_id: is a message of a conversation: send its conversation_id as well",
      "parent_id",
    );
  const there = "SELECT id FROM notice WHERE id = ? AND deleted_at IS NULL";
  if (notice !== null && (await store.all(there, [notice])).length === 0) throw notFound("notice");
  return {
    ...{ conversationId: newId(), title: null, model: null, system: system || null, end: null, turns: [] },
    ...{ notice, unread: { messages: 0, chars: 0 } },
  };
}
