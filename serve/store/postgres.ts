import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { KilnError } from "../../core/errors.ts";
import { firstLine } from "../../core/platform/files.ts";
import { copyStore } from "./copy.ts";
import { migrate, schemaOf } from "./migrate.ts";
import { bound, parse } from "./sql.ts";
import { openSqlite } from "./sqlite.ts";
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
 * A store in a schema of its own (`kiln`, or what `?schema=` says) of an existing Postgres. A lost connection is opened again:
 * reads are asked again, and a transaction runs again unless Postgres itself says that its commit arrived, so that nothing is
 * lost or done twice.
 */
export async function openPostgres(url: string, options: StoreOptions = {}): Promise<PostgresStore> {
  const driver = await import("pg").catch((error) => {
    const message = "DATABASE_URL needs the package pg, which is not installed: npm install pg pg-boss";
    throw storeError("missing", message, error);
  });
  const store = new PostgresStore(driver.default, url, options);
  try {
    await store.prepare();
  } catch (error) {
    await store.close().catch(() => {});
    throw error;
  }
  return store;
}

export class PostgresStore implements OpenStore {
  readonly dialect = "postgres";
  readonly name: string;
  /** The schema of Postgres that holds the tables. */
  readonly schema: string;
  statements = 0;
  readonly #pool: pg.Pool;
  readonly #types: pg.CustomTypesConfig;
  readonly #ready = new WeakSet<pg.PoolClient>();
  readonly #options: StoreOptions;
  onConnection: StoreOptions["onConnection"];
  #lost = false;

  constructor(driver: typeof pg, url: string, options: StoreOptions) {
    const { address, schema } = taken(url);
    this.name = `${address.protocol}//${address.host}${address.pathname}`;
    this.schema = schema;
    this.#options = options;
    this.onConnection = options.onConnection;
    this.#types = numbersAsInSqlite(driver);
    this.#pool = new driver.Pool({
      connectionString: address.href,
      application_name: "kiln",
      connectionTimeoutMillis: 5000,
      max: 10,
    });
    // A connection that breaks says so by an event too, which would end the process; whoever needs one next sees it.
    this.#pool.on("error", (error) => this.#told("lost", firstLine(error)));
    this.#pool.on("connect", (client) => void client.on("error", () => {}));
  }

  /** Throws where the server cannot be reached, is too old, or not in UTF-8. */
  async prepare(): Promise<void> {
    const [found] = await this.all<{ version: number; encoding: string }>(
      "SELECT CAST(current_setting('server_version_num') AS BIGINT) AS version, current_setting('server_encoding') AS encoding",
    );
    const { version, encoding } = found!;
    if (version < 130_000 || encoding !== "UTF8")
      throw storeError(
        "unfit",
        `${this.name} is Postgres ${Math.floor(version / 10_000)} with encoding ${encoding}; kiln needs 13 or newer with UTF8`,
      );
  }

  async all<T = Row>(sql: string, values: readonly Value[] = []): Promise<T[]> {
    if (!parse(sql).reads) return this.transaction((tx) => tx.all<T>(sql, values));
    refuseInside(this);
    return this.#patiently(async (client) => this.#on(client).all<T>(sql, values));
  }

  async run(sql: string, values: readonly Value[] = []): Promise<number> {
    return this.transaction((tx) => tx.run(sql, values));
  }

  async transaction<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    return this.writing("SERIALIZABLE", body);
  }

  /**
   * A transaction at a level of isolation, whose body may send Postgres' own SQL too. What a queue takes with SKIP LOCKED would
   * conflict all the time if it were serializable.
   */
  async writing<T>(
    level: "SERIALIZABLE" | "READ COMMITTED",
    body: (tx: Store, send: Send) => Promise<T>,
  ): Promise<T> {
    refuseInside(this);
    /** The transaction whose commit was sent and not answered, and what its body gave. */
    let unsure: { id: string; value: T } | null = null;
    return this.#patiently(async (client) => {
      if (unsure !== null && (await this.#committed(client, unsure.id))) return unsure.value;
      unsure = null;
      const begun = await client.query(`BEGIN ISOLATION LEVEL ${level}; SELECT txid_current() AS id`);
      const { id } = (begun as unknown as pg.QueryResult[])[1]!.rows[0] as { id: string };
      const tx = new Transaction(this, this.#on(client));
      try {
        const value = await insideOf(this, () => body(tx, (text, values) => client.query(text, values)));
        tx.assertWhole();
        unsure = { id, value };
        await client.query("COMMIT");
        return value;
      } catch (error) {
        if (isLost(error)) throw error;
        unsure = null;
        await client.query("ROLLBACK");
        throw error;
      } finally {
        tx.end();
      }
    });
  }

  async snapshot<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    refuseInside(this);
    return this.#patiently(async (client) => {
      await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
      const tx = new Transaction(this, this.#on(client));
      try {
        return await insideOf(this, () => body(tx));
      } finally {
        tx.end();
        await client.query("ROLLBACK").catch(() => {});
      }
    });
  }

  /** Sends Postgres' own SQL, again where the connection is lost: for what may happen twice. */
  async send(text: string, values?: unknown[]): Promise<{ rows: unknown[] }> {
    return this.#patiently((client) => client.query(text, values));
  }

  /** Whether a transaction was committed whose connection broke meanwhile: Postgres remembers. */
  async #committed(client: pg.PoolClient, id: string): Promise<boolean> {
    for (;;) {
      const { rows } = await client.query("SELECT txid_status($1::bigint) AS status", [id]);
      const { status } = rows[0] as { status: string | null };
      if (status === null)
        throw storeError("lost", `${this.name} no longer knows whether a transaction was committed: look`);
      if (status !== "in progress") return status === "committed";
      await sleep(50);
    }
  }

  /**
   * Does work on a connection. Where the connection is lost, cannot be made, or transactions conflict, the work is done again
   * on another until the patience is over.
   */
  async #patiently<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const begin = performance.now();
    for (let tries = 1; ; tries++) {
      let client: pg.PoolClient | null = null;
      try {
        client = await this.#pool.connect();
        if (!this.#ready.has(client)) {
          await client.query(`SET search_path TO ${this.schema}, pg_catalog`);
          this.#ready.add(client);
        }
        const result = await work(client);
        client.release();
        if (this.#lost) this.#told("back", "connected");
        return result;
      } catch (error) {
        const lost = isLost(error);
        client?.release(lost);
        const conflict = ["40001", "40P01"].includes(codeOf(error));
        if (lost) this.#told("lost", firstLine(causeOf(error)));
        const over = performance.now() - begin > (this.#options.patienceMs ?? 15_000);
        if (over || !(lost || conflict)) throw postgresError(this.name, error);
        await sleep(lost ? Math.min(50 * tries, 500) : Math.random() * 5 * tries);
      }
    }
  }

  #on(client: pg.PoolClient): Connection {
    const send = async (sql: string, values: readonly Value[]) => {
      this.statements++;
      const text = parse(sql).postgres;
      try {
        return await client.query({ text, values: bound(sql, values), types: this.#types });
      } catch (error) {
        throw postgresError(this.name, error);
      }
    };
    return {
      all: async <T>(sql: string, values: readonly Value[]) => (await send(sql, values)).rows as T[],
      run: async (sql, values) => (await send(sql, values)).rowCount ?? 0,
    };
  }

  #told(state: "lost" | "back", reason: string): void {
    if (this.#lost === (state === "lost")) return;
    this.#lost = state === "lost";
    this.onConnection?.(state, reason);
  }

  exclusively<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    // A serializable one would see what was there before it began to wait.
    return this.writing("READ COMMITTED", async (tx, send) => {
      await send("SELECT pg_advisory_xact_lock(hashtext('kiln'), hashtext($1))", [this.schema]);
      return body(tx);
    });
  }

  async migrate(options: { to?: number; backupFolder?: string } = {}): Promise<void> {
    if ((await schemaOf(this)) === 0)
      await this.exclusively((tx) => tx.run(`CREATE SCHEMA IF NOT EXISTS ${this.schema}`));
    await migrate(this, options);
  }

  async backup(file: string): Promise<void> {
    refuseInside(this);
    if (existsSync(file)) throw storeError("exists", `${file} exists already; name a new file`);
    const draft = `${file}.copy`;
    const clean = async () => {
      for (const end of ["", "-wal", "-shm"]) await rm(`${draft}${end}`, { force: true });
    };
    await clean();
    const copy = await openSqlite(draft);
    try {
      await copyStore(this, copy);
      await copy.backup(file); // the one step that makes a whole file in place
    } finally {
      await copy.close();
      await clean();
    }
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }
}

/** Sends Postgres' own SQL, and gives rows as `pg` does by default. */
export type Send = (text: string, values?: unknown[]) => Promise<{ rows: unknown[] }>;

/** The URL without what is kiln's own in it. */
function taken(url: string): { address: URL; schema: string } {
  const address = new URL(url);
  const schema = address.searchParams.get("schema") ?? "kiln";
  address.searchParams.delete("schema");
  if (!/^[a-z][a-z\d_]{0,40}$/.test(schema))
    throw storeError(
      "unfit",
      `the schema ${schema} of DATABASE_URL is no lower-case name: write ?schema=kiln`,
    );
  return { address, schema };
}

/** Rows as SQLite gives them: whole numbers and sums as numbers, truth as 0 or 1, bytes as Uint8Array. */
function numbersAsInSqlite({ types }: typeof pg): pg.CustomTypesConfig {
  const bytes = types.getTypeParser(17) as (text: string) => Buffer;
  const parsers: Record<number, (text: string) => unknown> = {
    16: (text) => (text === "t" ? 1 : 0),
    17: (text) => new Uint8Array(bytes(text)),
    20: Number,
    1700: Number,
  };
  return {
    getTypeParser: ((oid: number, format?: "text") =>
      parsers[oid] ?? types.getTypeParser(oid, format)) as pg.CustomTypesConfig["getTypeParser"],
  };
}

const causeOf = (error: unknown): unknown => (error instanceof KilnError && error.cause) || error;
const codeOf = (error: unknown): string => (causeOf(error) as { code?: string } | null)?.code ?? "";

/** Whether the connection broke, or none could be made: what was sent last may or may not have happened. */
function isLost(error: unknown): boolean {
  const code = codeOf(error);
  return (
    /^(08...|57P0[1-4]|ECONN.*|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)$/.test(code) ||
    (code === "" &&
      /connection terminated|connection error|not queryable|connection timeout|timeout exceeded/i.test(
        firstLine(causeOf(error)),
      ))
  );
}

const codes: Record<string, [string, string]> = {
  23505: ["unique", "there is such a row already"],
  23503: ["foreign_key", "it refers to a row that is not there, or is referred to"],
  23514: ["check", "a value that the schema does not allow"],
  23502: ["not_null", "a value is missing"],
  "22P02": ["type", "a value of the wrong type"],
  42804: ["type", "a value of the wrong type"],
  22003: ["type", "a value of the wrong type"],
  40001: ["busy", "others kept changing the same rows"],
  "40P01": ["busy", "others kept changing the same rows"],
  53300: ["busy", "the server has no connection left"],
};

/** Postgres' error as one line with a code. */
function postgresError(name: string, error: unknown): KilnError {
  if (error instanceof KilnError) return error;
  const line = firstLine(error);
  const code = codeOf(error);
  const known = codes[code];
  if (known) return storeError(known[0], `${known[1]} (${line})`, error);
  if (isLost(error)) return storeError("lost", `${name} cannot be reached: ${line || code}`, error);
  if (code === "53100")
    return new KilnError(`no space left on the disk of ${name} (${line})`, {
      code: "disk_full",
      cause: error,
    });
  if (/^(28|3D)/.test(code)) return storeError("refused", `${name}: ${line}; check DATABASE_URL`, error);
  return storeError("sql", line, error);
}
