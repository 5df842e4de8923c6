import { changeOwn, insertJob, type Job, type NewJob, type Queue, readJob } from "./jobs.ts";
import type { OpenStore } from "./store.ts";

/** The queue of the embedded store: one table, whose rows hold the leases. */
export class SqliteQueue implements Queue {
  readonly store: OpenStore;
  readonly leaseMs: number;
  readonly #listeners = new Set<() => void>();

  constructor(store: OpenStore, leaseMs: number) {
    this.store = store;
    this.leaseMs = leaseMs;
  }

  async add(job: NewJob): Promise<string> {
    const { id } = await this.store.transaction((tx) => insertJob(tx, job));
    for (const listener of this.#listeners) listener();
    return id;
  }

  async claim(kinds: readonly string[], worker: string): Promise<Job | null> {
    const now = Date.now();
    const [row] = await this.store.all<Parameters<typeof readJob>[0]>(
      `UPDATE job SET state = 'running', lease_until = ?, worker = ?, attempt = attempt + 1, started_at = coalesce(started_at, ?)
       WHERE id = (SELECT j.id FROM job j WHERE j.state = 'queued' AND j.run_at <= ? AND j.kind IN (${kinds.map(() => "?").join(", ")})
         AND NOT EXISTS (SELECT 1 FROM job r WHERE r.state = 'running' AND r.kind = j.kind AND r.user_id = j.user_id)
         ORDER BY j.priority, j.run_at, j.id LIMIT 1) RETURNING *`,
      [now + this.leaseMs, worker, now, now, ...kinds],
    );
    return row ? readJob(row) : null;
  }

  async renew(job: Job, progress = job.progress): Promise<{ cancel: boolean }> {
    return this.store.transaction(async (tx) => {
      await changeOwn(tx, job, "lease_until = ?, progress = ?", [Date.now() + this.leaseMs, progress]);
      const [row] = await tx.all<{ cancel_requested: number }>(
        "SELECT cancel_requested FROM job WHERE id = ?",
        [job.id],
      );
      return { cancel: row!.cancel_requested === 1 };
    });
  }

  async complete(job: Job, result: unknown = null): Promise<void> {
    await changeOwn(
      this.store,
      job,
      "state = 'succeeded', result = ?, progress = 1, lease_until = NULL, finished_at = ?",
      [JSON.stringify(result), Date.now()],
    );
  }

  async fail(job: Job, error: string, retryInMs?: number): Promise<void> {
    const now = Date.now();
    if (retryInMs !== undefined && job.attempt < job.max_attempts)
      await changeOwn(this.store, job, "state = 'queued', error = ?, lease_until = NULL, run_at = ?", [
        error,
        now + retryInMs,
      ]);
    else
      await changeOwn(this.store, job, "state = 'failed', error = ?, lease_until = NULL, finished_at = ?", [
        error,
        now,
      ]);
  }

  async stopped(job: Job): Promise<void> {
    await changeOwn(this.store, job, "state = 'cancelled', lease_until = NULL, finished_at = ?", [
      Date.now(),
    ]);
  }

  async cancel(id: string): Promise<boolean> {
    const changed = await this.store.run(
      `UPDATE job SET cancel_requested = 1, state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
       finished_at = CASE state WHEN 'queued' THEN ? ELSE finished_at END WHERE id = ? AND state IN ('queued', 'running')`,
      [Date.now(), id],
    );
    return changed === 1;
  }

  async recover(): Promise<number> {
    const now = Date.now();
    return this.store.run(
      `UPDATE job SET lease_until = NULL,
         state = CASE WHEN cancel_requested = 1 THEN 'cancelled' WHEN attempt < max_attempts THEN 'queued' ELSE 'failed' END,
         error = CASE WHEN cancel_requested = 0 AND attempt >= max_attempts THEN 'worker lost' ELSE error END,
         finished_at = CASE WHEN cancel_requested = 1 OR attempt >= max_attempts THEN ? ELSE NULL END
       WHERE state = 'running' AND lease_until < ?`,
      [now, now],
    );
  }

  onAdded(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#listeners.clear();
  }
}
