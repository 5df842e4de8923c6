import type { Store } from "../../store/index.ts";
import { readJob } from "../../store/jobs.ts";
import type { JobUpdate } from "../protocol.ts";
import { eventsOf, infoOf, type JobRow } from "./job_rows.ts";

/** Between looks at the jobs of those who watch. */
const LOOK_MS = 500;
/** Events of one update: who lacks more asks for them. */
const MOST_EVENTS = 100;

type Listener = (update: JobUpdate) => void;

interface Watched {
  readonly listeners: Set<Listener>;
  /** What was last told of each job that is open. */
  readonly told: Map<string, { seq: number; state: string }>;
  /** The newest job of all that were seen: those that come later are told of, even where they have ended. */
  newest: string | null;
}

/** Tells of jobs as they go on, whichever process works on them: all that is told of one is in the store. */
export class JobFeed {
  readonly #store: Store;
  readonly #lookMs: number;
  readonly #watched = new Map<string, Watched>();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();

  constructor(store: Store, lookMs = LOOK_MS) {
    this.#store = store;
    this.#lookMs = lookMs;
  }

  /** Calls `listener` of each open job of a user soon, and then of whatever happens to a job. @returns a function that ends it */
  watch(userId: string, listener: Listener): () => void {
    const watched = this.#watched.get(userId) ?? { listeners: new Set(), told: new Map(), newest: null };
    this.#watched.set(userId, watched);
    watched.listeners.add(listener);
    // All are told again: who listens already knows what it has.
    for (const id of watched.told.keys()) watched.told.set(id, { seq: 0, state: "" });
    this.nudge();
    this.#timer ??= setInterval(() => this.nudge(), this.#lookMs).unref();
    return () => {
      watched.listeners.delete(listener);
      if (watched.listeners.size === 0) this.#watched.delete(userId);
      if (this.#watched.size === 0) this.close();
    };
  }

  /** Looks now: something has happened. */
  nudge(): void {
    const look = async () => {
      for (const [userId, watched] of this.#watched) await this.#look(userId, watched);
    };
    // A store that was lost is asked again next time.
    this.#looking = this.#looking.then(look).catch(() => {});
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #look(userId: string, watched: Watched): Promise<void> {
    const { told, listeners } = watched;
    watched.newest ??= await this.#newest(userId);
    const open = [...told.keys()];
    const rows = await this.#store.all<JobRow>(
      `SELECT * FROM job WHERE user_id = ? AND (state IN ('queued', 'running') OR id > ? OR id IN ('none'${", ?".repeat(open.length)})) ORDER BY id`,
      [userId, watched.newest, ...open],
    );
    for (const id of open) if (!rows.some((row) => row.id === id)) told.delete(id);
    for (const row of rows) {
      const before = told.get(row.id) ?? { seq: 0, state: "" };
      const events = await eventsOf(this.#store, row.id, before.seq, { newest: MOST_EVENTS });
      const [seq, state] = [events.at(-1)?.seq ?? before.seq, stateOf(row)];
      if (row.state === "queued" || row.state === "running") told.set(row.id, { seq, state });
      else told.delete(row.id);
      if (row.id > watched.newest) watched.newest = row.id;
      if (before.seq === seq && before.state === state) continue;
      const update: JobUpdate = { type: "job.update", job: infoOf(readJob(row)), seq, events };
      for (const listener of listeners) listener(update);
    }
  }

  async #newest(userId: string): Promise<string> {
    const [row] = await this.#store.all<{ id: string | null }>(
      "SELECT max(id) AS id FROM job WHERE user_id = ?",
      [userId],
    );
    return row?.id ?? "";
  }
}

const stateOf = ({ state, progress, attempt, cancel_requested, error }: JobRow): string =>
  [state, progress, attempt, cancel_requested, error].join(" ");
