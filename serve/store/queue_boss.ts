import type PgBoss from "pg-boss";
import { changeOwn, insertJob, type Job, jobById, type NewJob, type Queue } from "./jobs.ts";
import type { PostgresStore } from "./postgres.ts";
import { type Store, storeError } from "./store.ts";

/** A queue on pg-boss, in a schema of its own beside the store's. Throws where pg-boss is not installed. */
export async function openBossQueue(store: PostgresStore, leaseMs: number): Promise<Queue> {
  const { default: Boss } = await import("pg-boss").catch((error) => {
    throw storeError("missing", "jobs on Postgres need the package pg-boss: npm install pg pg-boss", error);
  });
  const schema = `${store.schema}_queue`;
  // What pg-boss asks besides the transactions below: its own tables, queues and upkeep, each of which may be asked twice.
  const executeSql: PgBoss.Db["executeSql"] = (text, values) => store.send(text, values);
  const boss = new Boss({ schema, db: { executeSql }, supervise: false, schedule: false });
  boss.on("error", () => {}); // of work that it does by itself, which is switched off
  await boss.start();
  return new BossQueue(store, boss, schema, leaseMs);
}

/**
 * pg-boss decides who runs a job, when it runs again and when its worker is given up; each step of it is one transaction with the
 * row in `job`, which says the same in the words of both databases.
 */
class BossQueue implements Queue {
  readonly store: PostgresStore;
  readonly leaseMs: number;
  readonly #boss: PgBoss;
  readonly #schema: string;
  readonly #kinds = new Set<string>();
  readonly #listeners = new Set<() => void>();
  #adopted = false;
  #tidied = 0;

  constructor(store: PostgresStore, boss: PgBoss, schema: string, leaseMs: number) {
    this.store = store;
    this.leaseMs = leaseMs;
    this.#boss = boss;
    this.#schema = schema;
  }

  async #know(kind: string): Promise<void> {
    if (this.#kinds.has(kind)) return;
    if (!/^[\w.-]{1,100}$/.test(kind))
      throw storeError(
        "value",
        `${JSON.stringify(kind)} is no kind of job: letters, digits, _ . and - alone`,
      );
    await this.#boss.createQueue(kind);
    this.#kinds.add(kind);
  }

  /** A step of pg-boss and one of `job`, together. */
  #together<T>(body: (tx: Store, db: PgBoss.Db) => Promise<T>): Promise<T> {
    return this.store.writing("READ COMMITTED", (tx, send) =>
      body(tx, { executeSql: send as PgBoss.Db["executeSql"] }),
    );
  }

  async add(job: NewJob): Promise<string> {
    await this.#know(job.kind);
    const id = await this.#together(async (tx, db) => {
      const added = await insertJob(tx, job);
      if (added.isNew) await this.#send((await jobById(tx, added.id))!, db);
      return added.id;
    });
    for (const listener of this.#listeners) listener();
    return id;
  }

  async #send(job: Job, db: PgBoss.Db): Promise<void> {
    await this.#boss.send(
      job.kind,
      {},
      {
        id: job.id,
        db,
        priority: -job.priority,
        ...(job.run_at > Date.now() && { startAfter: new Date(job.run_at) }),
        retryLimit: job.max_attempts - job.attempt - 1,
        expireInSeconds: this.#leaseSeconds,
        // It archives what is left undone; a year is for ever here.
        retentionDays: 365,
      },
    );
  }

  get #leaseSeconds(): number {
    return Math.max(1, Math.round(this.leaseMs / 1000));
  }

  async claim(kinds: readonly string[], worker: string): Promise<Job | null> {
    if (!this.#adopted) await this.recover();
    for (const kind of kinds) {
      await this.#know(kind);
      const job = await this.#together(async (tx, db) => {
        const [found] = await this.#boss.fetch(kind, { db, batchSize: 1, priority: true });
        if (!found) return null;
        if (await isSecond(tx, found.id)) {
          await this.#putBack(db, kind, found.id);
          return null;
        }
        const now = Date.now();
        await this.#lease(db, kind, found.id);
        await tx.run(
          "UPDATE job SET state = 'running', lease_until = ?, worker = ?, attempt = attempt + 1, started_at = coalesce(started_at, ?) WHERE id = ?",
          [now + this.leaseMs, worker, now, found.id],
        );
        return jobById(tx, found.id);
      });
      if (job) return job;
    }
    return null;
  }

  /** 10.4 has no call for it: as if it had not been fetched, for a moment. */
  async #putBack(db: PgBoss.Db, kind: string, id: string): Promise<void> {
    await db.executeSql(
      `UPDATE ${this.#schema}.job SET state = 'created', started_on = NULL, start_after = now() + interval '1 second' WHERE name = $1 AND id = $2`,
      [kind, id],
    );
  }

  /** 10.4 has no call for it: a job is overdue `expire_in` after its start, which it keeps from one attempt to the next. */
  async #lease(db: PgBoss.Db, kind: string, id: string): Promise<void> {
    await db.executeSql(
      `UPDATE ${this.#schema}.job SET expire_in = now() - started_on + $1 * interval '1 second' WHERE name = $2 AND id = $3 AND state = 'active'`,
      [this.#leaseSeconds, kind, id],
    );
  }

  async renew(job: Job, progress = job.progress): Promise<{ cancel: boolean }> {
    return this.#together(async (tx, db) => {
      await changeOwn(tx, job, "lease_until = ?, progress = ?", [Date.now() + this.leaseMs, progress]);
      await this.#lease(db, job.kind, job.id);
      return { cancel: (await jobById(tx, job.id))!.cancel_requested === 1 };
    });
  }

  async complete(job: Job, result: unknown = null): Promise<void> {
    await this.#together(async (tx, db) => {
      const changes = "state = 'succeeded', result = ?, progress = 1, lease_until = NULL, finished_at = ?";
      await changeOwn(tx, job, changes, [JSON.stringify(result), Date.now()]);
      await this.#boss.complete(job.kind, job.id, {}, { db });
    });
  }

  async fail(job: Job, error: string, retryInMs?: number): Promise<void> {
    await this.#together(async (tx, db) => {
      const again = retryInMs !== undefined && job.attempt < job.max_attempts;
      const until = Date.now() + (retryInMs ?? 0);
      if (again) {
        await changeOwn(tx, job, "state = 'queued', error = ?, lease_until = NULL, run_at = ?", [
          error,
          until,
        ]);
        await this.#boss.deleteJob(job.kind, job.id, { db });
        await this.#send({ ...job, run_at: until }, db);
      } else {
        const changes = "state = 'failed', error = ?, lease_until = NULL, finished_at = ?";
        await changeOwn(tx, job, changes, [error, Date.now()]);
        await this.#boss.cancel(job.kind, job.id, { db });
      }
    });
  }

  async stopped(job: Job): Promise<void> {
    await this.#together(async (tx, db) => {
      await changeOwn(tx, job, "state = 'cancelled', lease_until = NULL, finished_at = ?", [Date.now()]);
      await this.#boss.cancel(job.kind, job.id, { db });
    });
  }

  async cancel(id: string): Promise<boolean> {
    return this.#together(async (tx, db) => {
      const asked = await tx.run(
        "UPDATE job SET cancel_requested = 1 WHERE id = ? AND state IN ('queued', 'running')",
        [id],
      );
      if (asked === 0) return false;
      const job = (await jobById(tx, id))!;
      if (job.state === "running") return true;
      await tx.run("UPDATE job SET state = 'cancelled', finished_at = ? WHERE id = ?", [Date.now(), id]);
      await this.#know(job.kind);
      await this.#boss.cancel(job.kind, id, { db });
      return true;
    });
  }

  /**
   * Lets pg-boss give up what is overdue, and says so in `job`; jobs that pg-boss does not know (they came by `kiln store copy`)
   * are handed to it, once.
   */
  async recover(): Promise<number> {
    if (Date.now() - this.#tidied < 3_600_000) await this.#boss.expire();
    else {
      await this.#boss.maintain(); // the same, and what ended long ago is put away
      this.#tidied = Date.now();
    }
    const overdue = await this.store.all<{ id: string; kind: string }>(
      `SELECT id, kind FROM job WHERE (state = 'running' AND lease_until < ?)${this.#adopted ? "" : " OR state = 'queued'"} ORDER BY id`,
      [Date.now()],
    );
    let changed = 0;
    for (const { id, kind } of overdue) {
      await this.#know(kind);
      changed += await this.#together((tx, db) => this.#follow(tx, db, id));
    }
    this.#adopted = true;
    return changed;
  }

  /** Makes the row of a job say what pg-boss decided about it. */
  async #follow(tx: Store, db: PgBoss.Db, id: string): Promise<number> {
    const job = await jobById(tx, id);
    if (!job || (job.state !== "running" && job.state !== "queued")) return 0;
    const known = await this.#boss.getJobById(job.kind, id, { db, includeArchive: false });
    if (known?.state === "active" || (job.state === "queued" && known)) return 0;
    const now = Date.now();
    const ended =
      job.cancel_requested === 1 ? "cancelled" : job.attempt < job.max_attempts ? "queued" : "failed";
    const changed = await tx.run(
      "UPDATE job SET state = ?, error = ?, lease_until = NULL, finished_at = ? WHERE id = ? AND state = ? AND attempt = ?",
      [
        ...[ended, ended === "failed" ? "worker lost" : job.error, ended === "queued" ? null : now],
        ...[id, job.state, job.attempt],
      ],
    );
    if (ended === "queued" && !known) await this.#send(job, db);
    if (ended !== "queued" && known) await this.#boss.cancel(job.kind, id, { db });
    return job.state === "running" ? changed : 0;
  }

  onAdded(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    await this.#boss.stop({ graceful: false });
  }
}

/** Whether another job of the same user and kind runs; two workers ask one after the other. */
async function isSecond(tx: Store, id: string): Promise<boolean> {
  const [job] = await tx.all<{ kind: string; user_id: string | null }>(
    "SELECT kind, user_id FROM job WHERE id = ?",
    [id],
  );
  if (!job || job.user_id === null) return false;
  await tx.all(
    "SELECT id FROM job WHERE user_id = ? AND kind = ? AND state IN ('queued', 'running') ORDER BY id FOR UPDATE",
    [...[job.user_id, job.kind]],
  );
  const others = await tx.all(
    "SELECT id FROM job WHERE user_id = ? AND kind = ? AND state = 'running' AND id <> ? LIMIT 1",
    [job.user_id, job.kind, id],
  );
  return others.length > 0;
}
