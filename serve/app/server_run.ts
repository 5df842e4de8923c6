import { hostname } from "node:os";
import { mayLive, type Owner, thisProcess } from "../../core/platform/lock.ts";
import { logError } from "../log_error.ts";
import { newId, type Store } from "../store/index.ts";
import { markInterrupted } from "./chat/answer_rows.ts";

/** Between signs of life, and after how long without one a server of another machine counts as gone. */
export const LEASE = { beatMs: 10_000, goneMs: 60_000 };

/**
 * This run of a server among those on one store. An answer is marked as interrupted when the run that writes it is gone: at once
 * on the same machine, where its process can be asked for, else when it has given no sign of life for a while.
 */
export class ServerRun {
  readonly id = newId();
  readonly #store: Store;
  readonly #times: typeof LEASE;
  #beat: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();

  constructor(store: Store, times: typeof LEASE = LEASE) {
    this.#store = store;
    this.#times = times;
  }

  /** Says that this run lives, and takes care of what others left unfinished, until `close`. */
  async begin(): Promise<void> {
    const owner = JSON.stringify(thisProcess());
    await this.#store.run("INSERT INTO server_run (id, owner, seen_at) VALUES (?, ?, ?)", [
      ...[this.id, owner, Date.now()],
    ]);
    await this.sweep();
    this.#beat = setInterval(() => {
      this.#working = this.#say().catch(logError);
    }, this.#times.beatMs).unref();
  }

  async #say(): Promise<void> {
    await this.#store.run("UPDATE server_run SET seen_at = ? WHERE id = ?", [Date.now(), this.id]);
    await this.sweep();
  }

  /** Marks the answers of runs that are gone. */
  async sweep(): Promise<void> {
    const runs = await this.#store.all<{ id: string; owner: string; seen_at: number }>(
      "SELECT id, owner, seen_at FROM server_run",
    );
    const lives = runs.filter(({ id, owner, seen_at }) => {
      const process = JSON.parse(owner) as Owner;
      if (id === this.id) return true;
      return process.host === hostname() ? mayLive(process) : Date.now() - seen_at < this.#times.goneMs;
    });
    await markInterrupted(
      this.#store,
      lives.map(({ id }) => id),
    );
    for (const { id } of runs.filter((run) => !lives.includes(run)))
      await this.#store.run("DELETE FROM server_run WHERE id = ?", [id]);
  }

  async close(): Promise<void> {
    clearInterval(this.#beat);
    await this.#working;
    // A store that cannot be written leaves the row: others see that the process is gone.
    await this.#store.run("DELETE FROM server_run WHERE id = ?", [this.id]).catch(() => {});
  }
}
