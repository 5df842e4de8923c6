import { randomUUID } from "node:crypto";
import { environmentVariable } from "../../../core/platform/environment.ts";
import type { ModelPool } from "../../models.ts";
import { type Blobs, type OpenStore, openBlobs } from "../../store/index.ts";
import { openQueue, type Queue, work } from "../../store/queue.ts";
import { Busy } from "./busy.ts";
import { fineTune } from "./fine_tune_worker.ts";
import { FineTuning } from "./fine_tuning.ts";
import { JobFeed } from "./job_feed.ts";
import { JobList, removeModel } from "./job_list.ts";
import { modelOf } from "./names.ts";

interface Opened {
  readonly queue: Queue;
  readonly fineTuning: FineTuning;
}

/** The jobs of a server's users. It works on fine-tunes itself, one at a time, as `kiln jobs work` does on other machines. */
export class Jobs {
  /** Tells the users what happens to their jobs. */
  readonly feed: JobFeed;
  readonly #store: OpenStore;
  readonly #pool: ModelPool;
  readonly #blobs: Blobs | undefined;
  readonly #stopping = new AbortController();
  #opened: Promise<Opened> | null = null;
  #working: Promise<void> = Promise.resolve();

  readonly #works: boolean;

  /**
   * @param blobs default: where the environment says
   * @param works whether this server works on jobs itself; default: unless KILN_JOBS is `elsewhere`
   */
  constructor(
    store: OpenStore,
    pool: ModelPool,
    blobs?: Blobs,
    works = environmentVariable("KILN_JOBS") !== "elsewhere",
  ) {
    this.#store = store;
    this.feed = new JobFeed(store);
    this.#pool = pool;
    this.#blobs = blobs;
    this.#works = works;
  }

  /** The jobs of one user. @throws KilnError where the queue cannot be opened; the next call tries again. */
  async of(userId: string): Promise<JobList> {
    return new JobList(this.#store, (await this.#open()).queue, userId);
  }

  /** Ends and removes all of a user's jobs and models: counts. */
  async clear(userId: string): Promise<{ job: number; adapter: number }> {
    const [any] = await this.#store.all("SELECT id FROM job WHERE user_id = ? LIMIT 1", [userId]);
    return any ? (await this.of(userId)).clear() : { job: 0, adapter: await removeModel(modelOf(userId)) };
  }

  async fineTuning(): Promise<FineTuning> {
    return (await this.#open()).fineTuning;
  }

  /** Goes on with what an earlier run left undone. */
  async resume(): Promise<void> {
    const left = await this.#store.all(
      "SELECT id FROM job WHERE kind = 'finetune' AND state IN ('queued', 'running') LIMIT 1",
    );
    if (left.length > 0) await this.#open();
  }

  /** Ends what is being trained with its work saved; the next run goes on with it. */
  async close(): Promise<void> {
    this.#stopping.abort();
    this.feed.close();
    const opened = await this.#opened?.catch(() => null);
    await this.#working;
    await opened?.queue.close();
  }

  #open(): Promise<Opened> {
    this.#opened ??= this.#begin().catch((error) => {
      this.#opened = null;
      throw error;
    });
    return this.#opened;
  }

  async #begin(): Promise<Opened> {
    const store = this.#store;
    const [blobs, queue] = await Promise.all([this.#blobs ?? openBlobs(), openQueue(store)]);
    queue.onAdded(() => this.feed.nudge());
    const fineTuning = new FineTuning({ store, blobs, queue, pool: this.#pool });
    if (!this.#works) return { queue, fineTuning };
    const { signal } = this.#stopping;
    const worker = `server ${process.pid} ${randomUUID().slice(0, 8)}`;
    const handlers = { finetune: fineTune({ store, blobs, busy: new Busy(this.#pool), closing: signal }) };
    this.#working = work(queue, handlers, { worker, signal }).catch(() => {
      // The store was lost: the next request opens everything again.
      this.#opened = null;
    });
    return { queue, fineTuning };
  }
}
