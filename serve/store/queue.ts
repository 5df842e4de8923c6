import { setTimeout as sleep } from "node:timers/promises";
import type { KilnError } from "../../core/errors.ts";
import type { Job, Queue } from "./jobs.ts";
import type { OpenStore } from "./store.ts";

export { addJobEvent, jobById, type Queue } from "./jobs.ts";

/** The queue of a store. `leaseMs`: see `Queue`; whole seconds. */
export async function openQueue(store: OpenStore, { leaseMs = 30_000 } = {}): Promise<Queue> {
  if (store.dialect === "sqlite") return new (await import("./queue_sqlite.ts")).SqliteQueue(store, leaseMs);
  const { openBossQueue } = await import("./queue_boss.ts");
  return openBossQueue(store as import("./postgres.ts").PostgresStore, leaseMs);
}

/** What runs one job. `signal` aborts when somebody cancels it; `report` keeps the progress, 0 to 1. */
export type Handler = (
  job: Job,
  context: { signal: AbortSignal; report: (progress: number) => void },
) => Promise<unknown>;

/**
 * Runs jobs as they come, one at a time, until `signal` aborts (`once`: or none waits); then finishes the one it has. A job whose handler throws is failed
 * (and tried again after a wait that doubles, where it has attempts left and the error is not `isFinal`), one whose signal aborted is
 * cancelled.
 */
export async function work(
  queue: Queue,
  handlers: Record<string, Handler>,
  {
    worker,
    signal,
    pollMs = 1000,
    once = false,
  }: { worker: string; signal: AbortSignal; pollMs?: number; once?: boolean },
): Promise<void> {
  let wake: () => void = () => {};
  let added = false;
  const stopListening = queue.onAdded(() => {
    added = true;
    wake();
  });
  let recovered = 0;
  try {
    while (!signal.aborted) {
      if (Date.now() - recovered >= Math.min(queue.leaseMs / 3, 10_000)) {
        await queue.recover();
        recovered = Date.now();
      }
      added = false;
      const job = await queue.claim(Object.keys(handlers), worker);
      if (job) await runJob(queue, job, handlers[job.kind]!);
      else if (once) return;
      else if (!added) {
        const woken = new Promise<void>((resolve) => {
          wake = resolve;
        });
        const timer = sleep(pollMs, undefined, { signal }).catch(() => {});
        await Promise.race([woken, timer]);
      }
    }
  } finally {
    stopListening();
  }
}

async function runJob(queue: Queue, job: Job, handler: Handler): Promise<void> {
  const controller = new AbortController();
  let progress = 0;
  let own = true;
  const renew = async () => {
    const { cancel } = await queue.renew(job, progress);
    if (cancel) controller.abort();
  };
  const timer = setInterval(
    () => {
      renew().catch((error: KilnError) => {
        if (error.code !== "store_lost_job") return; // a lost connection: the lease may outlast it
        own = false;
        controller.abort();
      });
    },
    Math.min(queue.leaseMs / 3, 2000),
  ); // soon, for whoever asked to cancel
  try {
    const report = (now: number) => {
      progress = now;
    };
    const result = await handler(job, { signal: controller.signal, report });
    await (controller.signal.aborted && own ? queue.stopped(job) : queue.complete(job, result));
  } catch (error) {
    if (!own || (error as KilnError).code === "store_lost_job") return;
    if (controller.signal.aborted) await queue.stopped(job);
    else {
      const wait = 1000 * 2 ** Math.min(job.attempt - 1, 6);
      const { message, isFinal = false } = error as Error & { isFinal?: boolean };
      await queue.fail(job, message, isFinal ? undefined : wait);
    }
  } finally {
    clearInterval(timer);
  }
}
