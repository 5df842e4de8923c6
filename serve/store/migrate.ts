import { createHash } from "node:crypto";
import { join } from "node:path";
import { packageVersion } from "../../core/platform/package_node.ts";
import { migrations } from "./migrations/index.ts";
import type { Migration, Table } from "./migrations/migration.ts";
import { definitions } from "./sql.ts";
import { type OpenStore, type Store, storeError } from "./store.ts";

interface Applied {
  version: number;
  name: string;
  checksum: string;
  kiln: string;
}

/** The newest schema that this kiln knows. */
export const newest = migrations.at(-1)!.version;

/** The tables whose rows are data, of a schema, in an order in which they can be filled. */
export const tablesOf = (version: number): Table[] =>
  migrations.filter((migration) => migration.version <= version).flatMap(({ tables }) => tables);

/** SHA-256 of what a migration does, over both databases. */
export function checksum({ sql, fill }: Migration): string {
  const text = typeof sql === "string" ? sql : `${sql.sqlite}\n${sql.postgres}`;
  return createHash("sha256")
    .update(`${text}${fill ? "\nfilled" : ""}`)
    .digest("hex");
}

/** The schema a store has: 0 where it is empty. Throws where a newer kiln wrote it, or a migration has been changed since. */
export async function schemaOf(store: Store): Promise<number> {
  const exists =
    store.dialect === "sqlite"
      ? "SELECT count(*) AS n FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
      : "SELECT count(*) AS n FROM information_schema.tables WHERE table_name = 'schema_version' AND table_schema = current_schema()";
  const [{ n }] = (await store.all<{ n: number }>(exists)) as [{ n: number }];
  if (n === 0) return 0;
  const applied = await store.all<Applied>(
    "SELECT version, name, checksum, kiln FROM schema_version ORDER BY version",
  );
  const last = applied.at(-1);
  if (last && last.version > newest)
    throw storeError(
      "newer",
      `${store.name} was written by kiln ${last.kiln} with schema ${last.version}; this kiln ${packageVersion()} knows schemas up to ${newest}: update kiln, or use a backup from before`,
    );
  for (const { version, name, checksum: found, kiln } of applied) {
    if (found === checksum(migrations[version - 1]!)) continue;
    throw storeError(
      "changed",
      `${store.name} got schema ${version} (${name}) from kiln ${kiln}, whose migration differs from this one's: use that kiln, or a backup of this one`,
    );
  }
  return last?.version ?? 0;
}

/**
 * Brings a store to the newest schema (or up to schema `to`), all steps in one transaction. Where it held data, a backup is
 * written to `backupFolder` before. Several processes may start at once: one migrates, the others wait.
 */
export async function migrate(
  store: OpenStore,
  { to = newest, backupFolder }: { to?: number; backupFolder?: string },
): Promise<void> {
  const before = await schemaOf(store);
  if (before >= to) return;
  if (before > 0 && backupFolder !== undefined) {
    const when = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
    await store.backup(join(backupFolder, `schema${before}-${when}-${process.pid}.db`));
  }
  await store.exclusively(async (tx) => {
    for (const statement of definitions(versions, tx.dialect)) await tx.run(statement);
    for (const migration of migrations.slice(await schemaOf(tx), to)) await apply(tx, migration);
  });
}

const versions = `
CREATE TABLE IF NOT EXISTS schema_version (
  version INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  applied_at INTEGER NOT NULL,
  checksum TEXT NOT NULL,
  kiln TEXT NOT NULL
);
`;

async function apply(tx: Store, migration: Migration): Promise<void> {
  const { version, name, sql, fill } = migration;
  for (const statement of typeof sql === "string" ? definitions(sql, tx.dialect) : own(sql[tx.dialect]))
    await tx.run(statement);
  await fill?.(tx);
  await tx.run(
    "INSERT INTO schema_version (version, name, applied_at, checksum, kiln) VALUES (?, ?, ?, ?, ?)",
    [version, name, Date.now(), checksum(migration), packageVersion()],
  );
}

const own = (sql: string) =>
  sql
    .split(/;\s*\n/)
    .map((statement) => statement.trim().replace(/;$/, ""))
    .filter((statement) => statement !== "");
