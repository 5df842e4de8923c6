import type { Store, Value } from "./store.ts";

/** A message as the index takes it. */
export interface Indexed {
  id: string;
  user_id: string;
  content: string;
}

/** Scripts without spaces between words: two characters make a word of the index. */
const unspaced =
  "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}\\p{Script=Lao}\\p{Script=Khmer}\\p{Script=Myanmar}ー";
const runs = new RegExp(`[${unspaced}]+|(?:(?![${unspaced}])[\\p{L}\\p{M}\\p{N}])+`, "gu");
const isUnspaced = new RegExp(`^[${unspaced}]`, "u");

/** The schema since which there is an index (migrations/004_search.ts). */
export const searchable = 4;

/** How much of a message the index takes: a row of Postgres' index holds 1 MiB. */
const indexedChars = 200_000;
const indexedWords = 20_000;
const wordChars = 40;

/**
 * The words of a text, each once: runs of letters, marks and digits, in lower case, without accents. Both databases index
 * exactly these, so that a search finds the same messages in both.
 */
export function words(text: string, whole = true): string[] {
  const plain = text
    .slice(0, indexedChars)
    .normalize("NFKD")
    .replace(/[\u0300-\u036f]/g, "")
    .normalize("NFC")
    .toLowerCase();
  const found = new Set<string>();
  for (const [run] of plain.matchAll(runs)) {
    if (found.size >= indexedWords) break;
    if (!isUnspaced.test(run)) {
      found.add(run.length > wordChars ? [...run].slice(0, wordChars).join("") : run);
      continue;
    }
    const characters = [...run];
    for (let i = 0; i + 1 < characters.length; i++) found.add(characters[i]! + characters[i + 1]!);
    // The last character alone, so that a search for any one of them is a search for beginnings.
    if (whole || characters.length === 1) found.add(characters.at(-1)!);
  }
  return [...found].slice(0, indexedWords);
}

/** One word that no text has, which keeps the users apart in the index itself. */
const ownerWord = (userId: string) => `@${Buffer.from(userId).toString("hex")}`;

/**
 * Puts messages into the full-text index, or their new content in place of the old. Called in the transaction that makes a
 * message complete (or stopped, or interrupted); a deleted message leaves the index by itself.
 */
export async function indexMessages(tx: Store, messages: readonly Indexed[]): Promise<void> {
  if (tx.dialect === "postgres") {
    for (let i = 0; i < messages.length; i += 200) {
      const some = messages.slice(i, i + 200);
      const rows = some.map(() => "(?, array_to_tsvector(string_to_array(CAST(? AS TEXT), ' ')))").join(", ");
      await tx.run(
        `INSERT INTO message_search (message_id, words) VALUES ${rows} ON CONFLICT (message_id) DO UPDATE SET words = excluded.words`,
        some.flatMap(({ id, user_id, content }) => [id, [ownerWord(user_id), ...words(content)].join(" ")]),
      );
    }
    return;
  }
  // All numbers first: after each such statement FTS5 would write out what it has gathered so far.
  const rows: number[] = [];
  for (const { id } of messages) {
    const [numbered] = await tx.all<{ row: number }>(
      "INSERT INTO message_search (message_id) VALUES (?) ON CONFLICT (message_id) DO UPDATE SET message_id = excluded.message_id RETURNING row",
      [id],
    );
    rows.push(numbered!.row);
  }
  for (const [i, { user_id, content }] of messages.entries())
    await tx.run("INSERT OR REPLACE INTO message_words (rowid, owner, words) VALUES (?, ?, ?)", [
      rows[i]!,
      ownerWord(user_id).slice(1),
      words(content).join(" "),
    ]);
}

/** A message that a search found. */
export interface Hit {
  id: string;
  conversation_id: string;
  title: string | null;
  role: string;
  content: string;
  created_at: number;
}

/**
 * The messages of one user that hold every word of `query`, the last of which may be a beginning; newest first, without those of
 * deleted conversations. `next` goes on where these end, or is null.
 */
export async function searchMessages(
  store: Store,
  userId: string,
  query: string,
  { limit = 20, after = null }: { limit?: number; after?: string | null } = {},
): Promise<{ hits: Hit[]; next: string | null }> {
  const asked = words(query, false);
  if (asked.length === 0) return { hits: [], next: null };
  const columns = "m.id, m.conversation_id, c.title, m.role, m.content, m.created_at";
  const joined =
    "JOIN message m ON m.id = s.message_id JOIN conversation c ON c.id = m.conversation_id WHERE m.user_id = ? AND c.deleted_at IS NULL";
  const found =
    store.dialect === "sqlite"
      ? await store.all<Hit & { at: number }>(
          `SELECT ${columns}, s.row AS at FROM message_words w JOIN message_search s ON s.row = w.rowid ${joined} AND message_words MATCH ? AND w.rowid < ? ORDER BY w.rowid DESC LIMIT ?`,
          [userId, matchSqlite(userId, asked), Number(after ?? Number.MAX_SAFE_INTEGER), limit + 1],
        )
      : await store.all<Hit & { at: string }>(
          `SELECT ${columns}, m.id AS at FROM message_search s ${joined} AND s.words @@ CAST(? AS tsquery) AND (CAST(? AS TEXT) IS NULL OR m.id < ?) ORDER BY m.id DESC LIMIT ?`,
          [userId, matchPostgres(userId, asked), after, after, limit + 1],
        );
  const hits = found.slice(0, limit);
  return {
    hits: hits.map(({ at: _, ...hit }) => hit as Hit),
    next: found.length > limit ? String(hits.at(-1)!.at) : null,
  };
}

// Words are letters, marks and digits alone: quoted, they can say nothing else.
const matchSqlite = (userId: string, asked: string[]) =>
  `owner:"${ownerWord(userId).slice(1)}" AND words:(${asked.map((word, i) => `"${word}"${i === asked.length - 1 ? "*" : ""}`).join(" AND ")})`;
const matchPostgres = (userId: string, asked: string[]) =>
  [
    `'${ownerWord(userId)}'`,
    ...asked.map((word, i) => `'${word}'${i === asked.length - 1 ? ":*" : ""}`),
  ].join(" & ");

/** Which messages belong into the index: those that no longer change. */
const final = "status <> 'streaming'";

/** Indexes every message that is not yet, in batches. */
export async function fillIndex(tx: Store): Promise<void> {
  let after = "";
  for (;;) {
    const values: Value[] = [after];
    const some = await tx.all<Indexed>(
      `SELECT id, user_id, content FROM message WHERE id > ? AND ${final} ORDER BY id LIMIT 1000`,
      values,
    );
    if (some.length === 0) return;
    await indexMessages(tx, some);
    after = some.at(-1)!.id;
  }
}

/** How many final messages the index lacks; a question comes into it with its answer, which may still be written. */
export async function unindexed(store: Store): Promise<number> {
  const [{ n }] = (await store.all<{ n: number }>(
    `SELECT count(*) AS n FROM message WHERE ${final} AND id NOT IN (SELECT message_id FROM message_search)
      AND id NOT IN (SELECT parent_id FROM message WHERE status = 'streaming' AND parent_id IS NOT NULL)`,
  )) as [{ n: number }];
  return n;
}
