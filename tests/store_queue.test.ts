import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect } from "vitest";
import { copyStore } from "../serve/store/copy.ts";
import { type OpenStore, openStore } from "../serve/store/index.ts";
import type { PostgresStore } from "../serve/store/postgres.ts";
import { addJobEvent, jobById, openQueue, type Queue, work } from "../serve/store/queue.ts";
import { eachStore } from "./support/each_store.ts";

const { kinds, isThere, addressOf, itOn } = eachStore("kiln-queue-");

describe.each(kinds)("the queue on %s", (kind) => {
  let store: OpenStore;
  let queue: Queue;
  beforeAll(async () => {
    if (!isThere(kind)) return;
    store = await openStore(addressOf(kind, "queue"));
    queue = await openQueue(store, { leaseMs: 60_000 });
  });
  afterAll(async () => {
    await queue?.close();
    await store?.close();
  });
  const it = itOn(kind);

  /** Lets a running job's lease be `ms` older than it is. */
  const age = async (id: string, ms: number) => {
    await store.run("UPDATE job SET lease_until = lease_until - ? WHERE id = ?", [ms, id]);
    if (kind === "postgres")
      await (store as PostgresStore).send(
        `UPDATE queue_queue.job SET started_on = started_on - ${ms} * interval '1 ms' WHERE id = '${id}'`,
      );
  };
  /** Lets the time of a waiting job come. */
  const come = async (id: string) => {
    await store.run("UPDATE job SET run_at = 1 WHERE id = ?", [id]);
    if (kind === "postgres")
      await (store as PostgresStore).send(
        `UPDATE queue_queue.job SET start_after = now() - interval '1 s' WHERE id = '${id}'`,
      );
  };

  it("runs by priority, then age, of the kinds that are asked for, once", async () => {
    const add = (priority: number, payload: string) => queue.add({ kind: "order", priority, payload });
    await add(5, "late");
    await add(0, "first");
    await add(0, "second");
    await add(-1, "urgent");
    await queue.add({ kind: "other" });
    const order = [];
    for (let job = await queue.claim(["order"], "w"); job; job = await queue.claim(["order"], "w")) {
      expect(job).toMatchObject({ state: "running", attempt: 1, worker: "w", kind: "order" });
      order.push(job.payload);
      await queue.complete(job, { done: job.payload });
      expect(await jobById(store, job.id)).toMatchObject({
        state: "succeeded",
        result: { done: job.payload },
        progress: 1,
        lease_until: null,
      });
    }
    expect(order).toEqual(["urgent", "first", "second", "late"]);
    expect(await queue.claim(["other", "order"], "w")).toMatchObject({ kind: "other" });
  });

  it("waits until the time of a job has come", async () => {
    const id = await queue.add({ kind: "later", runAt: Date.now() + 60_000 });
    expect(await queue.claim(["later"], "w")).toBeNull();
    await come(id);
    expect(await queue.claim(["later"], "w")).not.toBeNull();
  });

  it("has one job with a key at a time", async () => {
    const job = { kind: "keyed", dedupeKey: "user-1" };
    const first = await queue.add(job);
    expect(await queue.add(job)).toBe(first);
    const claimed = (await queue.claim(["keyed"], "w"))!;
    expect(await queue.add(job)).toBe(first);
    await queue.complete(claimed);
    const second = await queue.add(job);
    expect(second).not.toBe(first);
    expect(await queue.cancel(second)).toBe(true);
    expect(await queue.claim(["keyed"], "w")).toBeNull();
  });

  it("gives each of many jobs to one of many claimers", async () => {
    for (let i = 0; i < 24; i++) await queue.add({ kind: "many", payload: i });
    const claimed = await Promise.all(Array.from({ length: 30 }, (_, i) => queue.claim(["many"], `w${i}`)));
    const payloads = claimed.flatMap((job) => (job ? [job.payload as number] : []));
    expect(payloads.sort((a, b) => a - b)).toEqual(Array.from({ length: 24 }, (_, i) => i));
  });

  it("runs one job of a user and a kind at a time, whoever claims", async () => {
    const add = (userId: string) => queue.add({ kind: "own", userId });
    const [first, second, other] = [await add("ada"), await add("ada"), await add("ben")];
    const claims = await Promise.all(["v", "w", "x", "y"].map((worker) => queue.claim(["own"], worker)));
    const got = claims.flatMap((job) => job ?? []);
    // On Postgres a claim may end at the one that has to wait.
    for (let i = 0; i < 3; i++) got.push(...[await queue.claim(["own"], "z")].flatMap((job) => job ?? []));
    const mine = got.filter(({ user_id }) => user_id === "ada");
    expect(mine).toHaveLength(1);
    expect(got.map(({ user_id }) => user_id).sort()).toEqual(["ada", "ben"]);
    expect(got.map(({ id }) => id)).toContain(other);
    await queue.complete(mine[0]!);
    const left = mine[0]!.id === first ? second : first;
    await come(left);
    expect(await queue.claim(["own"], "z")).toMatchObject({ id: left, user_id: "ada", attempt: 1 });
  });

  it("tries again what failed, after a wait, as often as allowed", async () => {
    const id = await queue.add({ kind: "flaky", maxAttempts: 2 });
    const first = (await queue.claim(["flaky"], "w"))!;
    await queue.fail(first, "no luck", 60_000);
    expect(await jobById(store, id)).toMatchObject({ state: "queued", error: "no luck", attempt: 1 });
    expect(await queue.claim(["flaky"], "w")).toBeNull();
    await come(id);
    const second = (await queue.claim(["flaky"], "w"))!;
    expect(second).toMatchObject({ id, attempt: 2 });
    await expect(queue.complete(first)).rejects.toMatchObject({ code: "store_lost_job" });
    await queue.fail(second, "no luck again", 0);
    expect(await jobById(store, id)).toMatchObject({ state: "failed", error: "no luck again" });
    expect(await queue.claim(["flaky"], "w")).toBeNull();
  });

  it("takes back the job of a worker that is gone, and refuses what that one says later", async () => {
    const id = await queue.add({ kind: "lost", maxAttempts: 2 });
    const first = (await queue.claim(["lost"], "gone"))!;
    await age(id, 40_000);
    expect(await queue.recover()).toBe(0);
    expect(await queue.renew(first, 0.5)).toEqual({ cancel: false });
    await age(id, 40_000); // past the first lease, within the second
    expect(await queue.recover()).toBe(0);
    expect(await jobById(store, id)).toMatchObject({ state: "running", progress: 0.5 });
    await age(id, 40_000);
    expect(await queue.recover()).toBe(1);
    expect(await jobById(store, id)).toMatchObject({ state: "queued", lease_until: null });
    const second = (await queue.claim(["lost"], "next"))!;
    expect(second).toMatchObject({ id, attempt: 2 });
    await expect(queue.renew(first)).rejects.toMatchObject({ code: "store_lost_job" });
    // The lease of the second attempt is no longer than that of the first.
    await age(id, 70_000);
    expect(await queue.recover()).toBe(1);
    expect(await jobById(store, id)).toMatchObject({ state: "failed", error: "worker lost" });
    await expect(queue.complete(second)).rejects.toMatchObject({ code: "store_lost_job" });
  });

  it("cancels the job of a worker that is gone where somebody asked for that", async () => {
    const id = await queue.add({ kind: "left", maxAttempts: 2 });
    await queue.claim(["left"], "gone");
    await queue.cancel(id);
    await age(id, 70_000);
    expect(await queue.recover()).toBe(1);
    expect(await jobById(store, id)).toMatchObject({ state: "cancelled" });
    expect(await queue.claim(["left"], "w")).toBeNull();
  });

  it("cancels: a queued job at once, a running one when its worker stops", async () => {
    const queued = await queue.add({ kind: "cancelled" });
    expect(await queue.cancel(queued)).toBe(true);
    expect(await queue.cancel(queued)).toBe(false);
    expect(await queue.claim(["cancelled"], "w")).toBeNull();
    await queue.add({ kind: "cancelled" });
    const running = (await queue.claim(["cancelled"], "w"))!;
    expect(await queue.cancel(running.id)).toBe(true);
    expect(await queue.renew(running)).toEqual({ cancel: true });
    await queue.stopped(running);
    expect(await jobById(store, running.id)).toMatchObject({ state: "cancelled", lease_until: null });
  });

  it("works off jobs as they come, at once, until it is told to stop", async () => {
    const controller = new AbortController();
    const seen: unknown[] = [];
    const done = work(
      queue,
      {
        good: async ({ payload }, { report }) => {
          report(0.5);
          seen.push(payload);
          return { got: payload };
        },
        bad: async () => {
          throw new Error("of course");
        },
        long: async (_job, { signal }) => new Promise((resolve) => signal.addEventListener("abort", resolve)),
      },
      { worker: "one", signal: controller.signal, pollMs: 60_000 },
    );
    await sleep(100);
    const good = await queue.add({ kind: "good", payload: "x" });
    const bad = await queue.add({ kind: "bad" });
    const long = await queue.add({ kind: "long" });
    const until = async (id: string, state: string) => {
      for (let i = 0; i < 1200 && (await jobById(store, id))!.state !== state; i++) await sleep(25);
      return jobById(store, id);
    };
    expect(await until(good, "succeeded")).toMatchObject({ result: { got: "x" } });
    expect(await until(bad, "failed")).toMatchObject({ error: "of course" });
    await until(long, "running");
    await queue.cancel(long);
    expect(await until(long, "cancelled")).toMatchObject({ state: "cancelled" });
    expect(seen).toEqual(["x"]);
    controller.abort();
    await done;
  });

  it("numbers what is told of a job", async () => {
    const id = await queue.add({ kind: "told" });
    for (const [i, message] of ["begun", "half", "done"].entries())
      expect(await addJobEvent(store, id, "info", message, { i })).toBe(i + 1);
    const rows = await store.all("SELECT seq, message, data FROM job_event WHERE job_id = ? ORDER BY seq", [
      id,
    ]);
    expect(rows[2]).toEqual({ seq: 3, message: "done", data: '{"i":2}' });
  });
});

itOn("postgres")("jobs that came by a copy are run on Postgres", async () => {
  const from = await openStore(addressOf("sqlite", "moved"));
  const before = await openQueue(from);
  const waiting = await before.add({ kind: "moved", payload: 1 });
  await before.add({ kind: "moved", payload: 2, priority: -1, maxAttempts: 2 });
  const running = (await before.claim(["moved"], "old"))!;
  const to = await openStore(addressOf("postgres", "moved"));
  await copyStore(from, to);
  const after = await openQueue(to);
  expect(await after.claim(["moved"], "new")).toMatchObject({ id: waiting });
  expect(await after.claim(["moved"], "new")).toBeNull();
  await to.run("UPDATE job SET lease_until = 1 WHERE id = ?", [running.id]);
  await after.recover();
  expect(await after.claim(["moved"], "new")).toMatchObject({ id: running.id, attempt: 2 });
  for (const open of [before, after, from, to]) await open.close();
});
