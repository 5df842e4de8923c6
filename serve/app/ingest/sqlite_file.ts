import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { firstLine } from "../../../core/platform/files.ts";
import { profile } from "../../../models/features/table_profile.ts";
import { type Extracted, Unreadable } from "./extracted.ts";

const MOST_ROWS = 5000;
const MOST_TABLES = 100;

/** The tables of a database, of a copy that nothing can be written to. Views, triggers and virtual tables are left alone. */
export async function sqliteFile(bytes: Uint8Array): Promise<Extracted> {
  const { default: Database } = await import("libsql");
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-database-"));
  try {
    const copy = path.join(folder, "copy.db");
    writeFileSync(copy, bytes);
    const database = new Database(copy);
    try {
      for (const setting of ["query_only=1", "trusted_schema=0", "cell_size_check=1", "mmap_size=0"])
        database.exec(`PRAGMA ${setting}`);
      const [{ quick_check: state }] = database.prepare("PRAGMA quick_check(1)").all() as {
        quick_check: string;
      }[];
      if (state !== "ok") throw new Unreadable(`the database is damaged: ${state.split("\n").at(-1)}`);
      return read(database);
    } finally {
      database.close();
    }
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    throw new Unreadable(`the database is damaged: ${firstLine(error)}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Reader {
  prepare(sql: string): { all(...values: unknown[]): unknown[] };
}

function read(database: Reader): Extracted {
  const tables = database
    .prepare(
      "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND sql NOT LIKE 'CREATE VIRTUAL%' LIMIT ?",
    )
    .all([MOST_TABLES]) as { name: string }[];
  const found = tables.map(({ name }) => {
    const rows = database
      .prepare(`SELECT * FROM "${name.replaceAll('"', '""')}" LIMIT ${MOST_ROWS + 1}`)
      .all() as Record<string, unknown>[];
    const columns = Object.keys(rows[0] ?? {}).filter((column) => column !== "_metadata");
    const cells = rows.slice(0, MOST_ROWS).map((row) => columns.map((column) => shown(row[column])));
    const lines = cells.map((row) =>
      row.flatMap((cell, i) => (cell === "" ? [] : `${columns[i]}: ${cell}`)).join("; "),
    );
    return {
      name,
      text: lines.join("\n"),
      more: rows.length > MOST_ROWS,
      columns: profile(columns, cells),
      rows: cells.length,
    };
  });
  return {
    blocks: found
      .filter(({ text }) => text !== "")
      .map(({ name, text }) => ({ text, heading: name, kind: "table" as const })),
    notes: found
      .filter(({ more }) => more)
      .map(({ name }) => `of table ${name} the first ${MOST_ROWS} rows were read`),
    facts: { tables: found.map(({ name, rows, columns }) => ({ name, rows, columns })) },
  };
}

const shown = (value: unknown) =>
  value === null || value instanceof ArrayBuffer || value instanceof Uint8Array
    ? ""
    : String(value).replace(/\s+/g, " ").trim();
