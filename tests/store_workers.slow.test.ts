import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { openStore } from "../serve/store/index.ts";
import { openQueue } from "../serve/store/queue.ts";
import { noPostgres } from "./support/databases.ts";
import { eachStore } from "./support/each_store.ts";

const { folder, isThere, addressOf } = eachStore("kiln-workers-");
const root = fileURLToPath(new URL("..", import.meta.url));
const script = fileURLToPath(new URL("support/store_worker.ts", import.meta.url));

/** Many jobs, four workers, one of which is killed now and then: each ends once or is given up, and none runs twice at a time. */
test.each([
  ["sqlite", 2000],
  ["postgres", 500],
] as const)(
  "workers on %s are killed, and no job of %i is lost or runs twice at a time",
  { timeout: 280_000 },
  async (kind, jobs) => {
    if (!isThere(kind)) return console.log(`skipped: ${noPostgres}`);
    const address = addressOf(kind, "workers");
    const file = path.join(folder, `${kind}.log`);
    writeFileSync(file, "");
    const leaseMs = 3000;
    const store = await openStore(address);
    const queue = await openQueue(store, { leaseMs });
    for (let i = 0; i < jobs; i++) await queue.add({ kind: "count", maxAttempts: 3 });
    let names = 0;
    const start = async () => {
      const name = `worker${names++}`;
      const child = spawn(
        process.execPath,
        ["--import", "tsx", script, address, name, file, String(leaseMs)],
        {
          cwd: root,
          stdio: ["ignore", "pipe", "inherit"],
        },
      );
      await once(child.stdout!, "data");
      return { child, name };
    };
    const workers: { child: ChildProcess; name: string }[] = await Promise.all([
      start(),
      start(),
      start(),
      start(),
    ]);
    const left = async () =>
      (
        await store.all<{ n: number }>("SELECT count(*) AS n FROM job WHERE state IN ('queued', 'running')")
      )[0]!.n;
    for (let kills = 0; (await left()) > 0; ) {
      await sleep(400);
      if (kills >= 8) continue;
      kills++;
      const [victim] = workers.splice(kills % 4, 1);
      victim!.child.kill("SIGKILL");
      await once(victim!.child, "close");
      appendFileSync(file, `killed - - ${victim!.name}\n`);
      workers.push(await start());
    }
    for (const { child } of workers) {
      child.kill("SIGTERM");
      await once(child, "close");
    }
    const states = await store.all("SELECT state, error, count(*) AS n FROM job GROUP BY state, error");
    await queue.close();
    await store.close();
    const ended = new Map<string, number>();
    const running = new Map<string, string>();
    const dead = new Set<string>();
    for (const line of readFileSync(file, "utf8").trim().split("\n")) {
      const [what, id, , worker] = line.split(" ") as [string, string, string, string];
      if (what === "killed") dead.add(worker);
      if (what === "begin") {
        const before = running.get(id);
        expect(before === undefined || dead.has(before), `${line} while ${before} runs it`).toBe(true);
        running.set(id, worker);
      }
      if (what === "end") {
        running.delete(id);
        ended.set(id, (ended.get(id) ?? 0) + 1);
      }
    }
    const succeeded = states.find(({ state }) => state === "succeeded")!.n as number;
    const lost = states.filter(({ state, error }) => state === "failed" && error === "worker lost");
    expect(succeeded + lost.reduce((sum, { n }) => sum + (n as number), 0)).toBe(jobs);
    // A worker may be killed between the last line and its word to the queue: then the job is done again.
    const again = [...ended.values()].filter((times) => times > 1).length;
    expect(again).toBeLessThanOrEqual(8);
    expect(ended.size).toBeGreaterThanOrEqual(succeeded);
    expect(dead.size).toBeGreaterThan(0);
  },
);
