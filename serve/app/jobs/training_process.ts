import { spawn } from "node:child_process";
import { setPriority } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packageRoot } from "../../../core/platform/package_node.ts";
import type { FromWorker, ToWorker } from "../../../core/platform/supervisor.ts";
import { AppError } from "../app_error.ts";
import type { Busy } from "./busy.ts";
import { jobLimits } from "./limits.ts";

export interface Training {
  /** Of `kiln`. */
  readonly args: readonly string[];
  /** Ends it with its work saved. */
  readonly signal: AbortSignal;
  /** Whom it gives way to. */
  readonly busy?: Busy | undefined;
  /** Told how many steps there will be, and how many of them were done before. */
  readonly begun: (steps: number, done: number) => void;
  /** Told each line for the person who watches. */
  readonly said: (line: string) => void;
}

/** Lines that an error is told with. */
const LAST_LINES = 20;
/** The exit code of a run whose folder another process still writes. */
const MAY_WORK_LATER = 75;
/** The lowest priority: on a machine without a GPU both want the same cores. */
const IDLE = 19;

/**
 * Runs `kiln …` that trains in a process of its own, which ends with this one. It pauses between steps while the server answers. One
 * that does not end in time when it is asked to is killed: its newest checkpoint stays.
 * @returns whether it went to its end; false: `signal` ended it
 * @throws TrainingError with its last line where it failed, AppError where it took too long
 */
export async function train({ args, signal, busy, begun, said }: Training): Promise<boolean> {
  const { hours } = jobLimits;
  const child = spawn(process.execPath, [join(packageRoot, "bin/kiln.mjs"), ...args], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  try {
    setPriority(child.pid!, IDLE);
  } catch {
    // A system without priorities, or the child could not be started, which it says itself.
  }
  const lines: string[] = [];
  createInterface(child.stderr!).on("line", (line) => {
    if (line.trim() === "") return;
    lines.push(line);
    lines.splice(0, lines.length - LAST_LINES);
    said(line);
  });
  child.on("message", ({ steps, done }: FromWorker) => begun(steps, done));
  const tell = (pause: boolean) => {
    if (child.connected) child.send({ pause } satisfies ToWorker, () => {});
  };
  const unwatch = busy?.watch(tell);
  let [killing, late]: [NodeJS.Timeout | undefined, boolean] = [undefined, false];
  const stop = () => {
    child.kill("SIGTERM");
    killing ??= setTimeout(() => child.kill("SIGKILL"), jobLimits.stopMs);
  };
  const limit = setTimeout(() => {
    late = true;
    stop();
  }, hours * 3_600_000);
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  try {
    const [code, by] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.once("error", reject).once("close", (status, how) => resolve([status, how]));
    });
    if (signal.aborted) return false;
    if (late)
      throw Object.assign(new AppError(503, "time_limit", `it took more than ${hours} hours: resume it`), {
        isFinal: true,
      });
    if (code === 0) return true;
    const message = lines.at(-1)?.replace(/^kiln: /, "") ?? `it ended by ${by ?? code}`;
    // The process of a lost worker may still be on its way out.
    throw Object.assign(new TrainingError(message, lines), {
      isFinal: by === null && code !== MAY_WORK_LATER,
    });
  } finally {
    clearTimeout(limit);
    clearTimeout(killing);
    signal.removeEventListener("abort", stop);
    unwatch?.();
  }
}

/** Why training failed, with the last lines that it said. */
export class TrainingError extends Error {
  readonly lines: readonly string[];

  constructor(message: string, lines: readonly string[]) {
    super(message);
    this.lines = lines;
  }
}
