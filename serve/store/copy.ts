import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream as WebStream } from "node:stream/web";
import type { Blobs } from "./blobs.ts";
import { schemaOf, tablesOf } from "./migrate.ts";
import type { Table } from "./migrations/migration.ts";
import { fillIndex, searchable } from "./search.ts";
import { hashed } from "./spool.ts";
import { type OpenStore, type Row, type Store, storeError, type Value } from "./store.ts";

/** What a table holds: SHA-256 over its rows in the order of their keys, equal for equal rows in either database. */
export interface Digest {
  table: string;
  rows: number;
  sha256: string;
}

const batch = 1000;
/** SQLite takes 32,766 values in a statement. */
const valuesAtOnce = 30_000;

/**
 * Copies all that a store holds to an empty one, which gets the same schema: in one transaction, from a view that does not change
 * meanwhile, and committed only when every table has as many rows as the first with the same SHA-256. Throws where the target
 * holds rows, or differs at the end.
 */
export async function copyStore(
  from: OpenStore,
  to: OpenStore,
  progress: (digest: Digest) => void = () => {},
): Promise<Digest[]> {
  return from.snapshot(async (source) => {
    const schema = await schemaOf(source);
    if (schema === 0) throw storeError("empty", `${from.name} is no store of kiln: nothing to copy`);
    await to.migrate({ to: schema });
    const tables = tablesOf(schema);
    return to.transaction(async (target) => {
      for (const { name } of tables)
        if ((await target.all(`SELECT 1 AS one FROM ${name} LIMIT 1`)).length > 0)
          throw storeError("not_empty", `${to.name} holds data already (${name}): copy into an empty store`);
      const digests: Digest[] = [];
      for (const table of tables) {
        for await (const rows of batches(source, table)) await insert(target, table, rows);
        const [wanted, found] = [await digest(source, table), await digest(target, table)];
        if (wanted.rows !== found.rows || wanted.sha256 !== found.sha256)
          throw storeError(
            "differs",
            `${table.name} differs after the copy (${wanted.rows} rows, then ${found.rows}): nothing was written`,
          );
        digests.push(found);
        progress(found);
      }
      if (schema >= searchable) await fillIndex(target);
      if (target.dialect === "postgres") await countOn(target, tables);
      return digests;
    });
  });
}

/** What each table of a store holds. */
export async function digests(store: Store): Promise<Digest[]> {
  const found: Digest[] = [];
  for (const table of tablesOf(await schemaOf(store))) found.push(await digest(store, table));
  return found;
}

async function digest(store: Store, table: Table): Promise<Digest> {
  const hash = createHash("sha256");
  let count = 0;
  for await (const rows of batches(store, table)) {
    count += rows.length;
    for (const row of rows) hash.update(canonical(row));
  }
  return { table: table.name, rows: count, sha256: hash.digest("hex") };
}

function canonical(row: Row): string {
  const fields = Object.keys(row)
    .sort()
    .map((name) => [
      name,
      row[name] instanceof Uint8Array ? Buffer.from(row[name]).toString("base64") : row[name],
    ]);
  return `${JSON.stringify(fields)}\n`;
}

/** All rows of a table, by its key: each batch begins where the last one ended, so that the thousandth is as quick as the first. */
async function* batches(store: Store, { name, key }: Table): AsyncGenerator<Row[]> {
  const columns = key.join(", ");
  let last: Value[] | null = null;
  for (;;) {
    const where: string = last ? `WHERE (${columns}) > (${key.map(() => "?").join(", ")})` : "";
    const rows: Row[] = await store.all(
      `SELECT * FROM ${name} ${where} ORDER BY ${columns} LIMIT ${batch}`,
      last ?? [],
    );
    if (rows.length > 0) yield rows;
    if (rows.length < batch) return;
    last = key.map((column) => rows.at(-1)![column] as Value);
  }
}

async function insert(target: Store, { name }: Table, rows: readonly Row[]): Promise<void> {
  const columns = Object.keys(rows[0]!);
  const step = Math.floor(valuesAtOnce / columns.length);
  for (let i = 0; i < rows.length; i += step) {
    const some = rows.slice(i, i + step);
    const row = `(${columns.map(() => "?").join(", ")})`;
    await target.run(
      `INSERT INTO ${name} (${columns.join(", ")}) VALUES ${some.map(() => row).join(", ")}`,
      some.flatMap((values) => columns.map((column) => values[column] as Value)),
    );
  }
}

/** Tables that number their rows themselves go on after the last number that was copied. */
async function countOn(target: Store, tables: readonly Table[]): Promise<void> {
  const numbered = await target.all<{ table_name: string }>(
    "SELECT table_name FROM information_schema.columns WHERE table_schema = current_schema() AND is_identity = 'YES'",
  );
  for (const { name, key } of tables.filter(({ name }) => numbered.some((row) => row.table_name === name)))
    await target.all(
      `SELECT setval(pg_get_serial_sequence('${name}', '${key[0]}'), max(${key[0]})) AS last FROM ${name} HAVING count(*) > 0`,
    );
}

/** Copies blobs that the target lacks, and reads each back. Gives how many there are. Throws where one differs. */
export async function copyBlobs(
  from: Blobs,
  to: Blobs,
  progress: (key: string) => void = () => {},
): Promise<{ blobs: number; bytes: number }> {
  const total = { blobs: 0, bytes: 0 };
  for await (const { key, bytes } of from.list()) {
    const there = await to.stat(key);
    if (there?.bytes !== bytes) await to.put(key, await from.get(key));
    const [wanted, found] = [await blobHash(from, key), await blobHash(to, key)];
    if (wanted !== found)
      throw storeError("differs", `${key} differs in ${to.name}: delete it there, and copy again`);
    total.blobs++;
    total.bytes += bytes;
    progress(key);
  }
  return total;
}

async function blobHash(blobs: Blobs, key: string): Promise<string> {
  const { through, hash } = hashed();
  await pipeline(Readable.fromWeb((await blobs.get(key)) as WebStream), through.resume());
  return hash.digest("hex");
}

/** The keys of blobs named after their SHA-256 that hold other bytes. */
export async function damagedBlobs(blobs: Blobs): Promise<string[]> {
  const damaged: string[] = [];
  for await (const { key } of blobs.list()) {
    const name = key.split("/").at(-1)!;
    if (/^[\da-f]{64}$/.test(name) && (await blobHash(blobs, key)) !== name) damaged.push(key);
  }
  return damaged;
}
