import type { Store } from "../../store/index.ts";
import type { Job, readJob } from "../../store/jobs.ts";
import type { JobEvent, JobInfo } from "../protocol.ts";
import { type FineTuned, payloadOf } from "./payload.ts";

export type JobRow = Parameters<typeof readJob>[0];

/** What was told of a job after an event, in order: the `first` of it, or the `newest`. */
export async function eventsOf(
  store: Store,
  id: string,
  after: number,
  limit: { first: number } | { newest: number },
): Promise<JobEvent[]> {
  const [order, most] = "first" in limit ? ["", limit.first] : ["DESC", limit.newest];
  const rows = await store.all<Omit<JobEvent, "data"> & { data: string | null }>(
    `SELECT seq, at, level, message, data FROM job_event WHERE job_id = ? AND seq > ? ORDER BY seq ${order} LIMIT ?`,
    [id, after, most],
  );
  const events = rows.map(({ data, ...row }) => ({ ...row, data: data === null ? null : JSON.parse(data) }));
  return "first" in limit ? events : events.reverse();
}

/** What its user is told of a job. */
export function infoOf(job: Job): JobInfo {
  const { id, kind, state, error, progress, attempt, created_at, started_at, finished_at } = job;
  const isFineTune = kind === "finetune";
  return {
    ...{ id, kind, state, error, progress, attempt, created_at, started_at, finished_at },
    cancelling: state === "running" && job.cancel_requested === 1,
    parameters: isFineTune ? { ...payloadOf(job).parameters } : null,
    resumes: isFineTune ? (payloadOf(job).run ?? null) : null,
    result: isFineTune ? (job.result as FineTuned | null) : null,
  };
}
