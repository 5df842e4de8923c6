import { dirname, join } from "node:path";
import { dataFolder, type OpenStore, openStoreAsIs, type Store, storeAddress } from "../store/index.ts";

/** Where a server's log of conversations is: beside its store, or in the data folder. */
export const conversationLogPath = ({ dialect, name }: OpenStore): string =>
  join(dialect === "sqlite" ? dirname(name) : dataFolder(), "conversations.jsonl");

/** A conversation as logs and data files hold it (train/data/conversations/record.ts). */
export interface Collected {
  readonly id: string;
  readonly messages: readonly { role: string; content: string }[];
  readonly metadata: Record<string, string | number>;
}

/** An answer that is better than another to the same messages, as `kiln train preference` takes it. */
export interface Preferred {
  readonly prompt: Collected["messages"];
  readonly chosen: Collected["messages"];
  readonly rejected: Collected["messages"];
  readonly who: string;
  /** Milliseconds since 1970, UTC. */
  readonly when: number;
}

/** What stands for a user outside of the store. */
export type Pseudonym = (userId: string) => string;

interface Head {
  id: string;
  user_id: string;
  title?: string | null;
  system: string | null;
  leaf_id: string;
  created_at: number;
}

interface Said {
  role: string;
  content: string;
  status: string;
  model: string | null;
  rating: number | null;
  correction: string | null;
}

const BATCH = 200;
const KEPT =
  "c.deleted_at IS NULL AND c.leaf_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM comparison k WHERE k.conversation_id = c.id)";
const CONSENTED = `c.consent = 1 AND ${KEPT}`;
const headColumns = "c.id, c.user_id, c.system, c.leaf_id, c.created_at";

/** The conversations whose switch for it is on, of a user or (null) of all: what is shown of each, oldest first. */
export async function* collected(
  store: Store,
  userId: string | null,
  pseudonym: Pseudonym,
): AsyncGenerator<Collected> {
  for (let after = ""; ; ) {
    const heads = await store.all<Head>(
      `SELECT ${headColumns} FROM conversation c WHERE ${CONSENTED} AND c.id > ?${userId === null ? "" : " AND c.user_id = ?"} ORDER BY c.id LIMIT ${BATCH}`,
      [after, ...(userId === null ? [] : [userId])],
    );
    for (const head of heads) {
      const record = await recordOf(store, head, pseudonym);
      if (record !== null) yield record;
    }
    if (heads.length < BATCH) return;
    after = heads.at(-1)!.id;
  }
}

/** The conversations of a user for the user's own keeping, or one of them: whatever their consent, by their titles, of no name. */
export async function ownConversations(store: Store, userId: string, id?: string): Promise<Collected[]> {
  const [only, values] = id === undefined ? ["", []] : [" AND c.id = ?", [id]];
  const heads = await store.all<Head>(
    `SELECT ${headColumns}, c.title FROM conversation c WHERE ${KEPT} AND c.user_id = ?${only} ORDER BY c.id`,
    [userId, ...values],
  );
  const records: Collected[] = [];
  for (const head of heads) {
    const record = await recordOf(store, head, null);
    if (record !== null) records.push(record);
  }
  return records;
}

/** One of those with consent; null for one without consent, and for one in which nothing was answered yet. */
export async function collectedOne(
  store: Store,
  id: string,
  pseudonym: Pseudonym,
): Promise<Collected | null> {
  const [head] = await store.all<Head>(
    `SELECT ${headColumns} FROM conversation c WHERE ${CONSENTED} AND c.id = ?`,
    [id],
  );
  return head === undefined ? null : recordOf(store, head, pseudonym);
}

const branchTo = (leaf: string) =>
  `WITH RECURSIVE branch (id, parent_id, depth) AS (SELECT m.id, m.parent_id, 1 FROM message m WHERE m.id = ${leaf} UNION ALL SELECT p.id, p.parent_id, b.depth + 1 FROM branch b JOIN message p ON p.id = b.parent_id) SELECT m.role, m.content, m.status, m.model, f.rating, f.correction FROM branch b JOIN message m ON m.id = b.id LEFT JOIN feedback f ON f.message_id = m.id AND f.user_id = m.user_id ORDER BY b.depth DESC`;

const isSaid = ({ content, status }: Said) => content.trim() !== "" && status !== "streaming";
const isWhole = (said: Said) => isSaid(said) && (said.status === "complete" || said.status === "stopped");

/** Questions with their answers, without those that failed, or are not `whole` otherwise. */
function exchanges(rows: readonly Said[], whole = isWhole): Said[] {
  return rows.flatMap((row, i) => {
    const before = rows[i - 1];
    return row.role === "assistant" && before?.role === "user" && whole(row) && whole(before)
      ? [before, row]
      : [];
  });
}

const turnOf = ({ role, content }: Pick<Said, "role" | "content">) => ({ role, content });
const systemTurn = (system: string | null) => (system ? [{ role: "system", content: system }] : []);

async function recordOf(store: Store, head: Head, pseudonym: Pseudonym | null): Promise<Collected | null> {
  const branch = await store.all<Said>(branchTo("?"), [head.leaf_id]);
  const said = exchanges(branch, pseudonym === null ? isSaid : isWhole);
  const last = said.at(-1);
  if (last === undefined) return null;
  const rating = said.findLast((one) => one.rating !== null)?.rating;
  return {
    id: head.id,
    messages: [...systemTurn(head.system), ...said.map(turnOf)],
    metadata: {
      ...{ session_id: head.id, ...(pseudonym && { user_id: pseudonym(head.user_id) }), source: "kiln" },
      ...(head.title && { title: head.title }),
      ...(last.model && { model: last.model }),
      ...(rating != null && { rating }),
      ...(last.correction && { correction: last.correction }),
      created_at: head.created_at,
    },
  };
}

interface Pair {
  user_id: string;
  system: string | null;
  prompt_id: string;
  chosen: string;
  rejected: string;
  at: number;
}

const pairColumns = "c.user_id, c.system, r.parent_id AS prompt_id";
const consentedPairs = "c.consent = 1 AND c.deleted_at IS NULL AND r.content <> ''";

/**
 * What was preferred, in conversations with consent: a correction to what it corrects, what was voted for to the others, and
 * an answer that was rated up to those beside it that were rated down.
 */
export async function preferred(
  store: Store,
  userId: string | null,
  pseudonym: Pseudonym,
): Promise<Preferred[]> {
  const [user, values] = userId === null ? ["", []] : [" AND c.user_id = ?", [userId]];
  const queries = [
    `SELECT ${pairColumns}, f.correction AS chosen, r.content AS rejected, f.created_at AS at FROM feedback f JOIN message r ON r.id = f.message_id JOIN conversation c ON c.id = r.conversation_id WHERE f.correction IS NOT NULL AND ${consentedPairs}${user}`,
    `SELECT ${pairColumns}, w.content AS chosen, r.content AS rejected, p.created_at AS at FROM preference p JOIN message w ON w.id = p.chosen_message_id JOIN message r ON r.id = p.rejected_message_id JOIN conversation c ON c.id = r.conversation_id WHERE w.content <> '' AND ${consentedPairs}${user}`,
    `SELECT ${pairColumns}, w.content AS chosen, r.content AS rejected, CASE WHEN u.created_at > d.created_at THEN u.created_at ELSE d.created_at END AS at FROM feedback u JOIN message w ON w.id = u.message_id JOIN message r ON r.parent_id = w.parent_id JOIN feedback d ON d.message_id = r.id JOIN conversation c ON c.id = r.conversation_id WHERE u.rating = 1 AND d.rating = -1 AND w.content <> '' AND ${consentedPairs}${user}`,
  ];
  const rows: Preferred[] = [];
  const known = new Set<string>();
  for (const query of queries)
    for (const pair of await store.all<Pair>(`${query} ORDER BY at, r.id`, values)) {
      // A vote may say what ratings say too.
      const key = JSON.stringify([pair.prompt_id, pair.chosen, pair.rejected]);
      if (pair.chosen === pair.rejected || known.has(key)) continue;
      known.add(key);
      const branch = await store.all<Said>(branchTo("?"), [pair.prompt_id]);
      const prompt = [...exchanges(branch.slice(0, -1)), branch.at(-1)!];
      const answer = (content: string) => [{ role: "assistant", content }];
      rows.push({
        ...{ prompt: [...systemTurn(pair.system), ...prompt.map(turnOf)] },
        ...{ chosen: answer(pair.chosen), rejected: answer(pair.rejected) },
        ...{ who: pseudonym(pair.user_id), when: pair.at },
      });
    }
  return rows;
}

/** The conversations of all users, or what they preferred, of a store; `store` is the one where the environment says. */
export async function readStore(
  address: string,
  what: "conversations" | "preferences",
): Promise<(Collected | Preferred)[]> {
  const { AppendLog } = await import("../../core/platform/append_log.ts");
  const given = address === "store" ? storeAddress() : address;
  const store = await openStoreAsIs(given, { existing: true });
  const log = new AppendLog(conversationLogPath(store), { fsync: "never" });
  try {
    const pseudonym: Pseudonym = (user) => log.pseudonym(user);
    if (what === "preferences") return await preferred(store, null, pseudonym);
    const records: Collected[] = [];
    for await (const record of collected(store, null, pseudonym)) records.push(record);
    return records;
  } finally {
    await log.close();
    await store.close();
  }
}
