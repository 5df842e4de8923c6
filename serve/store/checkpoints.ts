import { statSync } from "node:fs";
import Background from "libsql/promise";

const MIB = 2 ** 20;
/** How SQLite's log is kept short: from what length on a thread of libsql's empties it, others waiting, or the writer itself. */
const LOG = { emptied: 16 * MIB, held: 64 * MIB, byWriter: 128 * MIB } as const;
const PAGE = 4096;
/** A look at the file's length takes microseconds; most commits go without. */
const COMMITS = 16;

/** For the writing connection: it leaves the log to `Checkpoints` as long as they can keep up. */
export const logSettings = [
  `wal_autocheckpoint=${LOG.byWriter / PAGE}`,
  `journal_size_limit=${LOG.emptied}`, // a log that begins anew is cut down to that, so that its length says what it holds
];

/**
 * Brings what was committed from the log into the database, beside the event loop: it takes two waits for the disk, of 10 ms
 * and more, which every hundredth message would have.
 */
export class Checkpoints {
  readonly #path: string;
  #background: Background | undefined;
  #running: Promise<void> | null = null;
  #commits = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** A transaction was committed. */
  note(): void {
    if (this.#running || ++this.#commits % COMMITS || this.#length() < LOG.emptied) return;
    // Where it fails, the writer does the same at the log's last length, or the next one tries again.
    this.#running = this.#empty()
      .catch(() => {})
      .finally(() => {
        this.#running = null;
      });
  }

  #length(): number {
    return statSync(`${this.#path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
  }

  async #empty(): Promise<void> {
    this.#background ??= new Background(this.#path, {});
    await this.#background.exec("PRAGMA wal_checkpoint(PASSIVE)");
    // Processes that write without a pause keep it from ever beginning anew: for what is left they wait.
    if (this.#length() >= LOG.held)
      await this.#background.exec("PRAGMA busy_timeout=20; PRAGMA wal_checkpoint(RESTART)");
  }

  async close(): Promise<void> {
    await this.#running;
    this.#background?.close();
  }
}
