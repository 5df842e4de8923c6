import { newId } from "./ids.ts";
import { type Store, storeError, type Value } from "./store.ts";

export type JobState = "queued" | "running" | "succeeded" | "failed" | "cancelled";

/** A row of `job`, with its JSON read. */
export interface Job {
  id: string;
  user_id: string | null;
  kind: string;
  state: JobState;
  payload: unknown;
  result: unknown;
  error: string | null;
  /** 0 to 1. */
  progress: number;
  /** Lower runs first. */
  priority: number;
  /** How often it has been claimed. */
  attempt: number;
  max_attempts: number;
  run_at: number;
  lease_until: number | null;
  worker: string | null;
  cancel_requested: number;
  dedupe_key: string | null;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
}

export interface NewJob {
  kind: string;
  payload?: unknown;
  userId?: string;
  priority?: number;
  /** How often it may be begun (1): a worker that is lost costs an attempt too. */
  maxAttempts?: number;
  /** Not before this time, in milliseconds UTC. */
  runAt?: number;
  /** While a job with this key is queued or running, adding gives that one. */
  dedupeKey?: string;
}

/**
 * A queue of jobs in a store. The rows of `job` are the same on both databases; who may run one is decided by a lease in that row
 * on SQLite and by pg-boss on Postgres. A job that is claimed belongs to its worker until the lease ends, which `renew` puts off;
 * what a worker says of a job that is no longer its own is refused with `store_lost_job`.
 */
export interface Queue {
  readonly store: Store;
  /** How long a claim holds without `renew`, in milliseconds. */
  readonly leaseMs: number;
  /** Adds a job and gives its id; with a `dedupeKey`, that of the job that has it already. */
  add(job: NewJob): Promise<string>;
  /**
   * The next job of these kinds whose time has come, now running for `worker`; of one kind, by priority, then age. Of a user's jobs
   * of one kind one runs at a time.
   */
  claim(kinds: readonly string[], worker: string): Promise<Job | null>;
  /** Puts off the end of the lease and keeps the progress; says whether somebody asked to cancel. */
  renew(job: Job, progress?: number): Promise<{ cancel: boolean }>;
  complete(job: Job, result?: unknown): Promise<void>;
  /** Ends a job by an error: queued again after `retryInMs` where it has attempts left and that is given, else failed. */
  fail(job: Job, error: string, retryInMs?: number): Promise<void>;
  /** Cancels a queued job at once; asks a running one to stop, which its worker confirms with `stopped`. False where it has ended. */
  cancel(id: string): Promise<boolean>;
  /** Ends a running job as cancelled. */
  stopped(job: Job): Promise<void>;
  /** Takes back the jobs of workers that are gone: queued again, or failed as `worker lost`. Gives how many. */
  recover(): Promise<number>;
  /** Told after each `add` of this process, so that a worker need not wait for its next look. */
  onAdded(listener: () => void): () => void;
  close(): Promise<void>;
}

type JobRow = Omit<Job, "payload" | "result"> & { payload: string; result: string | null };

export const readJob = (row: JobRow): Job => ({
  ...row,
  payload: JSON.parse(row.payload),
  result: row.result === null ? null : JSON.parse(row.result),
});

export async function jobById(store: Store, id: string): Promise<Job | null> {
  const [row] = await store.all<JobRow>("SELECT * FROM job WHERE id = ?", [id]);
  return row ? readJob(row) : null;
}

/** Writes the row of a new job; gives the id of the one that has its `dedupeKey` instead where there is one. */
export async function insertJob(
  tx: Store,
  { kind, payload = null, userId, priority = 0, maxAttempts = 1, runAt, dedupeKey }: NewJob,
): Promise<{ id: string; isNew: boolean }> {
  const now = Date.now();
  const id = newId();
  const added = await tx.run(
    "INSERT INTO job (id, user_id, kind, state, payload, priority, max_attempts, run_at, dedupe_key, created_at) VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?) ON CONFLICT (dedupe_key) WHERE state IN ('queued', 'running') DO NOTHING",
    [
      ...[id, userId ?? null, kind, JSON.stringify(payload), priority, maxAttempts],
      ...[runAt ?? now, dedupeKey ?? null, now],
    ],
  );
  if (added === 1) return { id, isNew: true };
  const [same] = await tx.all<{ id: string }>(
    "SELECT id FROM job WHERE dedupe_key = ? AND state IN ('queued', 'running')",
    [dedupeKey!],
  );
  return { id: same!.id, isNew: false };
}

/** Changes the row of a running job for its own worker; throws `store_lost_job` where it is no longer its own. */
export async function changeOwn(
  tx: Store,
  job: Job,
  changes: string,
  values: readonly Value[] = [],
): Promise<void> {
  const changed = await tx.run(
    `UPDATE job SET ${changes} WHERE id = ? AND state = 'running' AND worker = ? AND attempt = ?`,
    [...values, job.id, job.worker, job.attempt],
  );
  if (changed === 0)
    throw storeError("lost_job", `job ${job.id} no longer belongs to ${job.worker}: its lease ran out`);
}

/** Adds a line to what is told of a job; gives its number. */
export async function addJobEvent(
  store: Store,
  jobId: string,
  level: "info" | "warning" | "error",
  message: string,
  data?: unknown,
): Promise<number> {
  const [row] = await store.all<{ seq: number }>(
    "INSERT INTO job_event (job_id, seq, at, level, message, data) SELECT CAST(? AS TEXT), coalesce(max(seq), 0) + 1, CAST(? AS BIGINT), ?, ?, ? FROM job_event WHERE job_id = ? RETURNING seq",
    [jobId, Date.now(), level, message, data === undefined ? null : JSON.stringify(data), jobId],
  );
  return row!.seq;
}
