import { createWriteStream, existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Registry } from "../../../models/registry/registry.ts";
import { type Blobs, dataFolder, type Store } from "../../store/index.ts";
import type { Job } from "../../store/jobs.ts";
import { addJobEvent, type Handler } from "../../store/queue.ts";
import type { Busy } from "./busy.ts";
import { LogFollower, type LogRecord } from "./follow.ts";
import { keepResult } from "./keep_result.ts";
import { type FineTunePayload, payloadOf } from "./payload.ts";
import { TrainingError, train } from "./training_process.ts";

/** Between looks at what a run says of itself. */
const LOOK_MS = 500;

export interface WorkerOptions {
  readonly store: Store;
  readonly blobs: Blobs;
  readonly registry?: Registry;
  /** Ends what is being trained, which another worker goes on with. */
  readonly closing?: AbortSignal;
  /** Whom training gives way to. */
  readonly busy?: Busy | undefined;
  /** Where runs are; machines that share it go on with each other's work. Default: in the data folder. */
  readonly folder?: string;
}

/** Where the runs of fine-tunes are, as their settings say it too: a run's paths are taken from where its settings are. */
export const runsFolder = (): string => resolve(dataFolder(), "jobs");

/** The job `finetune`: trains an adapter in a process of its own, and makes it the live version of its user's model. */
export function fineTune({ folder = runsFolder(), closing, ...options }: WorkerOptions): Handler {
  return async (job, { signal: cancelled, report }) => {
    const signal = closing ? AbortSignal.any([closing, cancelled]) : cancelled;
    const { run = job.id } = payloadOf(job);
    const place = join(folder, run);
    try {
      await bring(options.blobs, place, payloadOf(job));
      const finished = await trained(job, place, { ...options, signal, report });
      if (!finished && !cancelled.aborted) throw new Error("its worker was stopped: another goes on with it");
      if (!finished) {
        await addJobEvent(options.store, job.id, "info", "stopped; its work is kept, resume goes on with it");
        return null;
      }
      const result = await keepResult(job, join(place, "run"), options.registry);
      await rm(place, { recursive: true, force: true });
      return result;
    } catch (error) {
      const lines = error instanceof TrainingError ? { lines: error.lines } : undefined;
      await addJobEvent(options.store, job.id, "error", (error as Error).message, lines);
      throw error;
    }
  };
}

const dataFile = (place: string, i: number, ending: string) => join(place, "data", `${i}.${ending}`);

/** Fetches what is to be learned, and writes the settings. What an earlier attempt fetched is there already. */
async function bring(blobs: Blobs, place: string, { files, settings }: FineTunePayload): Promise<void> {
  if (existsSync(join(place, "settings.json"))) return;
  await mkdir(join(place, "data"), { recursive: true, mode: 0o700 });
  for (const [i, { key, ending }] of files.entries()) {
    const source = await blobs.get(key).catch((error) => {
      if (error.code !== "store_no_blob") throw error;
      throw Object.assign(new Error("what it was to learn from was deleted: start another"), {
        isFinal: true,
      });
    });
    await pipeline(Readable.fromWeb(source as never), createWriteStream(dataFile(place, i, ending)));
  }
  const path = files.map(({ ending }, i) => dataFile(place, i, ending));
  const whole = { ...settings, data: { ...settings.data, path } };
  const draft = join(place, "settings.json.tmp");
  await writeFile(draft, JSON.stringify(whole));
  await rename(draft, join(place, "settings.json"));
}

interface Following extends Omit<WorkerOptions, "folder" | "closing"> {
  readonly signal: AbortSignal;
  readonly report: (progress: number) => void;
}

/** Trains, from the newest checkpoint where there is one, and tells of it in the job's events. */
async function trained(
  job: Job,
  place: string,
  { store, busy, signal, report }: Following,
): Promise<boolean> {
  const out = join(place, "run");
  const checkpoints = await readdir(join(out, "checkpoints")).catch(() => []);
  const resumes = checkpoints.some((name) => /^step-\d+$/.test(name));
  const how = resumes ? ["--resume"] : [join(place, "settings.json")];
  let follower: LogFollower | null = null;
  const rate = new Rate();
  let total = 0;
  const tell = (message: string, data?: unknown) => addJobEvent(store, job.id, "info", message, data);
  await tell(resumes ? "resumed" : "started", { attempt: job.attempt });
  const look = async () => {
    const records = (await follower?.next()) ?? [];
    const measured = records.filter(({ loss }) => loss === undefined);
    const last = records.findLast(({ loss }) => loss !== undefined);
    for (const record of measured) await tell("measured", record);
    if (last === undefined) return;
    report(Math.min(1, last.step / total));
    await tell("step", { ...last, steps: total, ...rate.at(last, total) });
  };
  let looking: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    looking = looking.then(look, look);
  }, LOOK_MS);
  try {
    const { recipe } = payloadOf(job);
    return await train({
      args: ["train", recipe, ...how, "--out", out],
      ...{ signal, busy },
      begun: (steps, done) => {
        total = steps;
        // Until now the log had what an attempt before wrote after its last checkpoint, too.
        follower = new LogFollower(join(out, "log.jsonl"), done);
      },
      said: () => {},
    });
  } finally {
    clearInterval(timer);
    await looking.catch(() => {});
    await look().catch(() => {});
  }
}

/** How quickly an attempt goes on. */
class Rate {
  #first: { step: number; tokens: number; at: number } | null = null;

  at({ step, tokens }: LogRecord, total: number): { tokens_per_second: number | null; eta_s: number | null } {
    const now = { step, tokens: tokens ?? 0, at: performance.now() };
    const first = this.#first;
    this.#first ??= now;
    if (first === null || now.step === first.step) return { tokens_per_second: null, eta_s: null };
    const seconds = (now.at - first.at) / 1000;
    return {
      tokens_per_second: Math.round((now.tokens - first.tokens) / seconds),
      eta_s: Math.round(((total - step) * seconds) / (step - first.step)),
    };
  }
}
