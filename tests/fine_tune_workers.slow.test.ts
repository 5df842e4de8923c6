import { type ChildProcess, spawn } from "node:child_process";
import path from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { Registry } from "../models/registry/registry.ts";
import { FineTuneServer } from "./support/fine_tune_server.ts";
import { lessonsOf } from "./support/lessons.ts";

/** `kiln jobs work` on two machines, as far as a machine can be two: processes that share nothing but the store and folders. */

const made = new FineTuneServer();
const root = path.resolve(import.meta.dirname, "..");
const workers: ChildProcess[] = [];
beforeAll(async () => {
  for (const [name, value] of Object.entries({ ...made.env, KILN_JOBS: "elsewhere" }))
    vi.stubEnv(name, value);
  await made.open();
}, 240_000);
afterAll(async () => {
  for (const worker of workers) worker.kill("SIGKILL");
  await made.close();
  vi.unstubAllEnvs();
}, 30_000);

function work(...flags: string[]): ChildProcess {
  const worker = spawn(process.execPath, [path.join(root, "bin/kiln.mjs"), "jobs", "work", ...flags], {
    env: { ...process.env, ...made.env },
    stdio: ["ignore", "inherit", "inherit"],
  });
  workers.push(worker);
  return worker;
}

const ended = (worker: ChildProcess) =>
  worker.exitCode !== null || worker.signalCode !== null
    ? Promise.resolve()
    : new Promise((resolve) => worker.once("exit", resolve));

async function teach(user_id: string): Promise<string> {
  await made.upload(user_id, "lessons.csv", lessonsOf("Once a zebra ran away."));
  const parameters = { epochs: 6, learning_rate: 0.005, rank: 4 };
  const { body } = await made.ask("POST", "/api/fine-tune", { user_id, parameters });
  return body.job_id;
}

const adapterOf = async (name: string) =>
  (await new Registry(made.env.KILN_REGISTRY).find(`${name}@live`)).files.find(
    ({ path: file }) => file === "adapter_model.safetensors",
  )!.sha256;

it("a fine-tune whose worker is killed again and again ends as if nothing had happened", async () => {
  const { store } = made.application;
  const whole = await teach("whole");
  await ended(work("--once"));
  expect((await made.ended(whole, "whole", 1000)).state).toBe("succeeded");

  const id = await teach("cut");
  const step = async () => {
    const [row] = await store.all<{ data: string }>(
      "SELECT data FROM job_event WHERE job_id = ? AND message = 'step' ORDER BY seq DESC LIMIT 1",
      [id],
    );
    return row ? (JSON.parse(row.data).step as number) : 0;
  };
  // At first two wait for work, and one takes over from the other; then each has it alone.
  const points = [3, 11, 17, 22, 29].map((point) => point + Math.floor(Math.random() * 4));
  let running = [work(), work()];
  for (const point of points) {
    await expect.poll(step, { timeout: 300_000, interval: 30 }).toBeGreaterThanOrEqual(point);
    // The row may still name the one that was killed last.
    let holder = undefined as ReturnType<typeof work> | undefined;
    const find = async () => {
      const [{ worker }] = await store.all<{ worker: string }>("SELECT worker FROM job WHERE id = ?", [id]);
      holder = running.find(({ pid }) => worker.endsWith(` ${pid}`));
      return holder !== undefined;
    };
    await expect.poll(find, { timeout: 60_000 }).toBe(true);
    if (!holder) throw new Error("no worker has the job");
    holder.kill("SIGKILL");
    await ended(holder);
    // Its lease would run out by itself, in half a minute.
    await store.run("UPDATE job SET lease_until = 1 WHERE id = ? AND state = 'running'", [id]);
    running = running.filter((other) => other !== holder);
    if (running.length === 0) running.push(work());
  }
  const job = await made.ended(id, "cut", 400_000);
  const events = await made.events(id, "cut");
  // One more for each that came while the trainer of the one before was still ending.
  const early = events.filter(({ message }) => /is writing this run folder/.test(message)).length;
  const attempt = points.length + 1 + early;
  expect(job, JSON.stringify(events)).toMatchObject({ state: "succeeded", attempt });
  expect(await adapterOf("user-cut")).toBe(await adapterOf("user-whole"));
}, 900_000);
