import { existsSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import Database from "libsql";
import { KilnError } from "../../core/errors.ts";
import { firstLine, writeError } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import { InTurn } from "../../core/platform/in_turn.ts";
import { Checkpoints, logSettings } from "./checkpoints.ts";
import { migrate } from "./migrate.ts";
import { bound, parse } from "./sql.ts";
import {
  type Connection,
  insideOf,
  type OpenStore,
  type Row,
  refuseInside,
  type Store,
  type StoreOptions,
  storeError,
  Transaction,
  type Value,
} from "./store.ts";

/**
 * A store in one SQLite file, through libsql. One connection writes, one statement or transaction at a time; another, which
 * cannot write, reads what was committed. Processes may share the file (not over a network): who waits for another's write
 * leaves the event loop free.
 */
export async function openSqlite(path: string, options: StoreOptions = {}): Promise<OpenStore> {
  try {
    makeFolder(dirname(path));
  } catch (error) {
    throw writeError(path, error);
  }
  const { patienceMs = 5000, durability = "normal" } = options;
  const settings = [
    "foreign_keys=ON",
    "case_sensitive_like=ON", // as in Postgres
    "trusted_schema=OFF",
    `synchronous=${durability === "full" ? "FULL" : "NORMAL"}`,
  ];
  const open = (more: string[]) => {
    const connection = new SqliteConnection(path);
    try {
      for (const setting of [...settings, ...more]) connection.exec(`PRAGMA ${setting}`);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  };
  // Whoever comes first makes the file a WAL; SQLite does not always wait its turn for that.
  const writer = await patiently(path, patienceMs, () =>
    open(["busy_timeout=0", "journal_mode=WAL", ...logSettings]),
  );
  const reader = await patiently(path, patienceMs, () =>
    open([`busy_timeout=${patienceMs}`, "query_only=1"]),
  );
  return new SqliteStore(path, writer, reader, patienceMs);
}

class SqliteStore implements OpenStore {
  readonly dialect = "sqlite";
  readonly name: string;
  readonly #writer: SqliteConnection;
  readonly #reader: SqliteConnection;
  readonly #patienceMs: number;
  readonly #checkpoints: Checkpoints;
  /** Ends when the last writer in line has ended. */
  readonly #line = new InTurn();

  constructor(path: string, writer: SqliteConnection, reader: SqliteConnection, patienceMs: number) {
    this.name = path;
    this.#writer = writer;
    this.#reader = reader;
    this.#patienceMs = patienceMs;
    this.#checkpoints = new Checkpoints(path);
  }

  get statements(): number {
    return this.#writer.statements + this.#reader.statements;
  }

  async all<T = Row>(sql: string, values: readonly Value[] = []): Promise<T[]> {
    refuseInside(this);
    if (parse(sql).reads) return this.#reader.all<T>(sql, values);
    return this.#write(() => this.#writer.all<T>(sql, values));
  }

  async run(sql: string, values: readonly Value[] = []): Promise<number> {
    refuseInside(this);
    return this.#write(() => this.#writer.run(sql, values));
  }

  #write<T>(work: () => T): Promise<T> {
    return this.#line.do(async () => {
      const result = await patiently(this.name, this.#patienceMs, work);
      this.#checkpoints.note();
      return result;
    });
  }

  async transaction<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    refuseInside(this);
    return this.#line.do(async () => {
      await patiently(this.name, this.#patienceMs, () => this.#writer.exec("BEGIN IMMEDIATE"));
      const result = await this.#ended(this.#writer, body);
      this.#checkpoints.note();
      return result;
    });
  }

  async snapshot<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    refuseInside(this);
    // A connection of its own: the reader goes on seeing what is committed meanwhile.
    const connection = new SqliteConnection(this.name);
    try {
      connection.exec("PRAGMA query_only=1; PRAGMA busy_timeout=5000; BEGIN");
      return await this.#ended(connection, body);
    } finally {
      connection.close();
    }
  }

  /** Runs the body of a transaction that has begun, and commits it or rolls it back. */
  async #ended<T>(connection: SqliteConnection, body: (tx: Store) => Promise<T>): Promise<T> {
    const tx = new Transaction(this, connection);
    try {
      const result = await insideOf(this, () => body(tx));
      tx.assertWhole();
      connection.exec("COMMIT");
      return result;
    } catch (error) {
      // SQLite itself has rolled back where, for one, the disk is full.
      if (connection.inTransaction) connection.exec("ROLLBACK");
      throw error;
    } finally {
      tx.end();
    }
  }

  exclusively<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    return this.transaction(body); // there is one writer anyhow
  }

  async migrate(options: { to?: number; backupFolder?: string } = {}): Promise<void> {
    await migrate(this, options);
  }

  async backup(file: string): Promise<void> {
    refuseInside(this);
    if (existsSync(file)) throw storeError("exists", `${file} exists already; name a new file`);
    const draft = `${file}.part`;
    const connection = new SqliteConnection(this.name);
    try {
      makeFolder(dirname(file));
      await rm(draft, { force: true });
      connection.run("VACUUM INTO ?", [draft]);
      await rename(draft, file);
    } catch (error) {
      await rm(draft, { force: true }).catch(() => {});
      throw writeError(file, error);
    } finally {
      connection.close();
    }
  }

  async close(): Promise<void> {
    await this.#line.do(async () => {
      await this.#checkpoints.close();
      this.#reader.close();
      this.#writer.close();
      // libsql keeps a connection half open as long as its statements live: the log goes into the file by word, so that the
      // file alone is the store. Where others have it open, the last of them does it.
      const last = new SqliteConnection(this.name);
      try {
        last.exec("PRAGMA wal_checkpoint(TRUNCATE)");
      } finally {
        last.close();
      }
    });
  }
}

/** A connection of libsql, with its traps covered: see the tests "traps of libsql". */
class SqliteConnection implements Connection {
  statements = 0;
  readonly #path: string;
  readonly #database: Database.Database;
  readonly #prepared = new Map<string, Database.Statement>();

  constructor(path: string) {
    this.#path = path;
    this.#database = this.#told(() => new Database(path));
  }

  get inTransaction(): boolean {
    return this.#database.inTransaction;
  }

  exec(sql: string): void {
    this.#told(() => this.#database.exec(sql));
  }

  all<T>(sql: string, values: readonly Value[]): T[] {
    return this.#told(() => {
      const rows = this.#prepare(sql).all(this.#bound(sql, values)) as Record<string, unknown>[];
      for (const row of rows)
        for (const [name, value] of Object.entries(row))
          if (value instanceof ArrayBuffer) row[name] = new Uint8Array(value);
      return rows as T[];
    });
  }

  run(sql: string, values: readonly Value[]): number {
    return this.#told(() => this.#prepare(sql).run(this.#bound(sql, values)).changes);
  }

  /** Always one array: libsql ends the process on a lone boolean or Buffer. A whole number stays one in a column of text. */
  #bound(sql: string, values: readonly Value[]): unknown[] {
    return bound(sql, values).map((value) => (Number.isSafeInteger(value) ? BigInt(value as number) : value));
  }

  #prepare(sql: string): Database.Statement {
    this.statements++;
    let statement = this.#prepared.get(sql);
    if (!statement) {
      if (this.#prepared.size >= 200) this.#prepared.clear();
      statement = this.#database.prepare(sql);
      this.#prepared.set(sql, statement);
    }
    return statement;
  }

  #told<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw sqliteError(this.#path, error);
    }
  }

  close(): void {
    this.#prepared.clear();
    this.#database.close();
  }
}

/** Tries until another process lets go of the file, with short waits; at the end of its patience throws `store_busy`. */
async function patiently<T>(path: string, patienceMs: number, work: () => T): Promise<T> {
  const begin = performance.now();
  for (;;) {
    try {
      return work();
    } catch (error) {
      if ((error as KilnError).code !== "store_busy") throw error;
      const waited = performance.now() - begin;
      if (waited > patienceMs) {
        const message = `${path} has been held by another process for ${Math.round(waited / 1000)} s: look for one that hangs`;
        throw storeError("busy", message, error);
      }
      // Most writes take less than the shortest timer.
      if (waited < 2) await new Promise((resolve) => setImmediate(resolve));
      else await sleep(1 + Math.random());
    }
  }
}

const constraints: Record<number, [string, string]> = {
  275: ["check", "a value that the schema does not allow"],
  787: ["foreign_key", "it refers to a row that is not there, or is referred to"],
  1299: ["not_null", "a value is missing"],
  1555: ["unique", "there is such a row already"],
  2067: ["unique", "there is such a row already"],
  3091: ["type", "a value of the wrong type"],
};

/** libsql's error as one line with a code. */
function sqliteError(path: string, error: unknown): KilnError {
  if (error instanceof KilnError) return error;
  const { code = "", rawCode = 0 } = error as { code?: string; rawCode?: number };
  const line = firstLine(error);
  const constraint = constraints[rawCode];
  if (constraint) return storeError(constraint[0], `${constraint[1]} (${line})`, error);
  const primary = rawCode & 0xff || Number(/: (\d+)"\)$/.exec(line)?.[1] ?? 0);
  switch (primary) {
    case 5: // SQLITE_BUSY
    case 6: // SQLITE_LOCKED
      return storeError("busy", `${path} is held by another process: try again when that is done`, error);
    case 13: // SQLITE_FULL
      return writeError(path, Object.assign(new Error(line, { cause: error }), { code: "ENOSPC" }));
    case 3: // SQLITE_PERM
    case 8: // SQLITE_READONLY
    case 14: // SQLITE_CANTOPEN
      return writeError(path, Object.assign(new Error(line, { cause: error }), { code: "EACCES" }));
    case 10: // SQLITE_IOERR
      return writeError(path, new Error(`${line} (${code})`, { cause: error }));
    case 11: // SQLITE_CORRUPT
    case 26: // SQLITE_NOTADB
      return storeError(
        "damaged",
        `${path} is damaged, or no SQLite database: put a backup in its place (${line})`,
        error,
      );
    default:
      return storeError("sql", line, error);
  }
}
