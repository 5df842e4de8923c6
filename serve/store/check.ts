import { type Digest, digests } from "./copy.ts";
import { schemaOf } from "./migrate.ts";
import { searchable, unindexed } from "./search.ts";
import type { OpenStore, Store } from "./store.ts";

/** What should never be found, each as a query of the number of rows in which it is. */
const rules: readonly [string, string][] = [
  [
    "messages follow a message that is not in their conversation",
    "SELECT count(*) AS n FROM message m WHERE m.parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM message p WHERE p.id = m.parent_id AND p.conversation_id = m.conversation_id)",
  ],
  [
    "conversations show a message that they do not have",
    "SELECT count(*) AS n FROM conversation c WHERE c.leaf_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM message m WHERE m.id = c.leaf_id AND m.conversation_id = c.id)",
  ],
  [
    "messages belong to another user than their conversation",
    "SELECT count(*) AS n FROM message m JOIN conversation c ON c.id = m.conversation_id WHERE m.user_id <> c.user_id",
  ],
];

/** What a store holds, and a line for each thing that is wrong with it. Changes nothing. */
export async function checkStore(
  store: OpenStore,
): Promise<{ schema: number; tables: Digest[]; problems: string[] }> {
  return store.snapshot(async (view) => {
    const schema = await schemaOf(view);
    if (schema === 0)
      return { schema, tables: [], problems: [`${store.name} is no store of kiln, or empty`] };
    const problems = view.dialect === "sqlite" ? await damageOfSqlite(view) : [];
    const count = async (what: string, found: number) => {
      if (found > 0) problems.push(`${found.toLocaleString("en")} ${what}`);
    };
    for (const [what, sql] of rules) {
      const [row] = await view.all<{ n: number }>(sql);
      await count(what, row!.n);
    }
    if (schema >= searchable) await count("messages are not in the full-text index", await unindexed(view));
    return { schema, tables: await digests(view), problems };
  });
}

async function damageOfSqlite(view: Store): Promise<string[]> {
  const integrity = await view.all<{ integrity_check: string }>("PRAGMA integrity_check");
  const foreign = await view.all<{ table: string; parent: string }>("PRAGMA foreign_key_check");
  return [
    ...integrity.map((row) => row.integrity_check).filter((line) => line !== "ok"),
    ...foreign.map(({ table, parent }) => `a row of ${table} refers to a row of ${parent} that is not there`),
  ];
}
