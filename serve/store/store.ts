import { AsyncLocalStorage } from "node:async_hooks";
import { KilnError } from "../../core/errors.ts";

/**
 * What a statement takes for a `?`. Both databases keep text without NUL, finite numbers (a bigint within 2^53) and bytes;
 * a boolean becomes 0 or 1, a Float32Array its bytes.
 */
export type Value = string | number | bigint | boolean | null | Uint8Array | Float32Array;

/** A row as both databases give it: whole numbers as numbers, truth as 0 or 1, bytes as Uint8Array. */
export type Row = Record<string, string | number | null | Uint8Array>;

/**
 * One database of two kinds behind one portable SQL (README.md has the rules). Every method throws KilnError, whose `code` says
 * what happened: `store_unique`, `store_foreign_key`, `store_check`, `store_not_null` and `store_type` for a row that may not be,
 * `store_value` for a value that cannot be bound, `store_sql` for a statement that is wrong, `store_busy`, `disk_full`,
 * `store_damaged` and `store_lost` for what the caller cannot help.
 */
export interface Store {
  readonly dialect: "sqlite" | "postgres";
  /** Where it is, as people may read it: a path, or a URL without its password. */
  readonly name: string;
  /** Statements sent so far, for tests that bound how many a page may cost. */
  readonly statements: number;
  /** The rows of a query, or of a statement with RETURNING. */
  all<T = Row>(sql: string, values?: readonly Value[]): Promise<T[]>;
  /** Runs one statement and says how many rows it changed. It is whole or not at all, also when the connection breaks. */
  run(sql: string, values?: readonly Value[]): Promise<number>;
  /**
   * Runs `body` in a serializable transaction: whole or not at all. The body may run again (after a conflict, or when the
   * connection broke), so it does nothing but call `tx`. Inside a transaction, another one is a savepoint.
   */
  transaction<T>(body: (tx: Store) => Promise<T>): Promise<T>;
}

/** A store that is open: what `openStore` gives. */
export interface OpenStore extends Store {
  /** Brings the schema up to date; see migrate.ts. */
  migrate(options?: { to?: number; backupFolder?: string }): Promise<void>;
  /** A transaction that waits for others of its kind, of any process, and sees what they did: for what is done once. */
  exclusively<T>(body: (tx: Store) => Promise<T>): Promise<T>;
  /** Runs `body` with a view of the data that does not change meanwhile; it may only read. */
  snapshot<T>(body: (tx: Store) => Promise<T>): Promise<T>;
  /** Writes what the store holds to a new SQLite file, while others go on writing. */
  backup(file: string): Promise<void>;
  close(): Promise<void>;
  /** Told, of a database that is reached over a network, when the connection is lost, and when it is back. */
  onConnection?: StoreOptions["onConnection"];
}

export interface StoreOptions {
  /** Whether each commit waits for the disk. Without, a crash of the machine (not of the process) may lose the last moments. */
  durability?: "normal" | "full";
  /** How long a statement waits for another process, or for a lost connection, in milliseconds. */
  patienceMs?: number;
  /** Told when the connection to Postgres is lost, and when it is back. */
  onConnection?: ((state: "lost" | "back", reason: string) => void) | undefined;
}

/** The transaction that the code runs in, so that a call which would wait for itself is refused. */
const inside = new AsyncLocalStorage<{ store: object; open: boolean }>();

/** Runs the body of a transaction of `store`. */
export async function insideOf<T>(store: object, body: () => Promise<T>): Promise<T> {
  const mark = { store, open: true };
  try {
    return await inside.run(mark, body);
  } finally {
    mark.open = false;
  }
}

/** Throws where the code runs in a transaction of `store` and calls the store itself. */
export function refuseInside(store: object): void {
  const mark = inside.getStore();
  if (mark?.open && mark.store === store)
    throw new KilnError("inside a transaction call its tx, not the store, which would wait for it for ever", {
      code: "store_sql",
    });
}

export function storeError(code: string, message: string, cause?: unknown): KilnError {
  return new KilnError(message, { code: `store_${code}`, ...(cause !== undefined && { cause }) });
}

/**
 * The transaction of an open connection, which `run` and `all` reach; the drivers add how one is begun and ended. After an error
 * it goes no further, as in Postgres, unless the error came out of an inner transaction; after its end every call throws: a
 * forgotten `await` must not write outside of it.
 */
export class Transaction implements Store {
  readonly #owner: Store;
  readonly #connection: Connection;
  #state: "open" | "failed" | "ended" = "open";
  #savepoints = 0;

  constructor(owner: Store, connection: Connection) {
    this.#owner = owner;
    this.#connection = connection;
  }

  get dialect(): Store["dialect"] {
    return this.#owner.dialect;
  }

  get name(): string {
    return this.#owner.name;
  }

  get statements(): number {
    return this.#owner.statements;
  }

  all<T = Row>(sql: string, values: readonly Value[] = []): Promise<T[]> {
    return this.#sent((connection) => connection.all<T>(sql, values));
  }

  run(sql: string, values: readonly Value[] = []): Promise<number> {
    return this.#sent((connection) => connection.run(sql, values));
  }

  async transaction<T>(body: (tx: Store) => Promise<T>): Promise<T> {
    const name = `inner_${++this.#savepoints}`;
    await this.run(`SAVEPOINT ${name}`);
    try {
      const result = await body(this);
      await this.run(`RELEASE SAVEPOINT ${name}`);
      return result;
    } catch (error) {
      // Where even this fails (the connection broke), the first error says more, and the outer transaction stays failed.
      await Promise.resolve()
        .then(() => this.#connection.run(`ROLLBACK TO SAVEPOINT ${name}`, []))
        .then(
          () => {
            this.#state = "open";
          },
          () => {},
        );
      throw error;
    }
  }

  /** Called before the commit: throws where the body swallowed an error. */
  assertWhole(): void {
    if (this.#state === "failed")
      throw storeError(
        "sql",
        "a statement of this transaction failed: catch such errors around an inner one",
      );
  }

  end(): void {
    this.#state = "ended";
  }

  async #sent<T>(work: (connection: Connection) => T | Promise<T>): Promise<T> {
    this.assertWhole();
    if (this.#state === "ended")
      throw storeError("sql", "this transaction has ended: await every statement inside its body");
    try {
      return await work(this.#connection);
    } catch (error) {
      this.#state = "failed";
      throw error;
    }
  }
}

/** What runs statements for a transaction. */
export interface Connection {
  all<T>(sql: string, values: readonly Value[]): T[] | Promise<T[]>;
  run(sql: string, values: readonly Value[]): number | Promise<number>;
}
