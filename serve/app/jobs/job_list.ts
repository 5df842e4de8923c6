import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Registry } from "../../../models/registry/registry.ts";
import type { Store } from "../../store/index.ts";
import { type Job, readJob } from "../../store/jobs.ts";
import type { Queue } from "../../store/queue.ts";
import { AppError, notFound } from "../app_error.ts";
import type { JobEvent, JobInfo } from "../protocol.ts";
import { runsFolder } from "./fine_tune_worker.ts";
import { eventsOf, infoOf, type JobRow } from "./job_rows.ts";
import { jobLimits as limits } from "./limits.ts";
import { modelOf } from "./names.ts";
import { payloadOf } from "./payload.ts";

/** The jobs of one user: the only way to their rows. */
export class JobList {
  readonly #store: Store;
  readonly #queue: Queue;
  readonly #userId: string;

  constructor(store: Store, queue: Queue, userId: string) {
    this.#store = store;
    this.#queue = queue;
    this.#userId = userId;
  }

  /** The newest first. */
  async list(kind: string | undefined, limit: number): Promise<JobInfo[]> {
    const rows = await this.#store.all<JobRow>(
      `SELECT * FROM job WHERE user_id = ?${kind === undefined ? "" : " AND kind = ?"} ORDER BY id DESC LIMIT ?`,
      [this.#userId, ...(kind === undefined ? [] : [kind]), limit],
    );
    return rows.map((row) => infoOf(readJob(row)));
  }

  async get(id: string): Promise<JobInfo> {
    return infoOf(await this.#job(id));
  }

  /** What was told of a job after an event, in order. */
  async events(id: string, after: number, limit: number): Promise<JobEvent[]> {
    await this.#job(id);
    return eventsOf(this.#store, id, after, { first: limit });
  }

  /** Cancels one that waits at once, asks one that runs to end. @throws AppError 409 for one that has ended. */
  async cancel(id: string): Promise<JobInfo> {
    const { state } = await this.#job(id);
    if (!(await this.#queue.cancel(id)))
      throw new AppError(409, "job_ended", `this job has ended, it is ${state}: start another`);
    return this.get(id);
  }

  /** A job that goes on with the work of one that was cancelled or failed. @throws AppError 409 for others, 429 where too many wait. */
  async resume(id: string): Promise<JobInfo> {
    const job = await this.#job(id);
    if (job.kind !== "finetune" || (job.state !== "cancelled" && job.state !== "failed"))
      throw new AppError(409, "not_resumable", "only a fine-tune that was cancelled or failed can go on");
    await checkQueued(this.#store, this.#userId);
    const payload = payloadOf(job);
    const run = payload.run ?? job.id;
    const next = await this.#queue.add({
      ...{ kind: job.kind, userId: this.#userId, payload: { ...payload, run } },
      ...{ maxAttempts: limits.attempts, dedupeKey: `finetune ${run}` },
    });
    return this.get(next);
  }

  /** Ends and removes all of a user's jobs, with what they made: counts. */
  async clear(): Promise<{ job: number; adapter: number }> {
    const jobs = (await this.#store.all<JobRow>("SELECT * FROM job WHERE user_id = ?", [this.#userId])).map(
      readJob,
    );
    for (const { id, state } of jobs)
      if (state === "queued" || state === "running") await this.#queue.cancel(id);
    await this.#ended();
    for (const job of jobs)
      if (job.kind === "finetune")
        await rm(join(runsFolder(), payloadOf(job).run ?? job.id), { recursive: true, force: true });
    const job = await this.#store.run("DELETE FROM job WHERE user_id = ?", [this.#userId]);
    return { job, adapter: await removeModel(modelOf(this.#userId)) };
  }

  /** Waits for the worker of a job that was asked to end, for as long as that may take. */
  async #ended(): Promise<void> {
    const until = Date.now() + 12_000;
    while (Date.now() < until) {
      const running = await this.#store.all(
        "SELECT id FROM job WHERE user_id = ? AND state = 'running' LIMIT 1",
        [this.#userId],
      );
      if (running.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async #job(id: string): Promise<Job> {
    const [row] = await this.#store.all<JobRow>("SELECT * FROM job WHERE id = ? AND user_id = ?", [
      id,
      this.#userId,
    ]);
    if (!row) throw notFound("job");
    return readJob(row);
  }
}

/** @throws AppError 429 where a user's fine-tunes that wait are as many as may. */
export async function checkQueued(store: Store, userId: string): Promise<void> {
  const [{ n }] = (await store.all<{ n: number }>(
    "SELECT count(*) AS n FROM job WHERE user_id = ? AND kind = 'finetune' AND state = 'queued'",
    [userId],
  )) as [{ n: number }];
  if (n < limits.queued) return;
  const message = `${limits.queued} fine-tunes of yours wait already: cancel one, or wait`;
  throw new AppError(429, "too_many_jobs", message);
}

/** Removes all versions of a model; how many. */
export async function removeModel(name: string): Promise<number> {
  const registry = new Registry();
  const { versions, aliases } = await registry.model(name);
  for (const alias of Object.keys(aliases)) await registry.alias(name, alias, null);
  for (const version of versions) await registry.remove(name, version);
  return versions.length;
}
