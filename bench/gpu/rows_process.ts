import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { KilnError } from "../../core/errors.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import type { RunHead } from "../report.ts";
import { firstStep, gpuRows } from "../rows/index.ts";
import type { GpuResult, GpuRun } from "./bars.ts";

export interface RowsOptions {
  quick: boolean;
  filter: string;
  /** Without bounds checks in shaders. */
  unchecked: boolean;
  /** When to stop, by `performance.now()`. */
  until: number;
  write: (line: string) => void;
  /** The script of the child processes; tests have others. */
  script?: string;
  limits?: Limits;
}

/** Milliseconds after which a process that says nothing is given up: while it opens the adapter, and in each row. */
export interface Limits {
  row: number;
  /** In a process that times a first step. */
  first: number;
}

const usualLimits: Limits = { row: 90_000, first: 45_000 };

/** @throws KilnError when no row's name contains `filter` */
export function rowNames(quick: boolean, filter: string): string[] {
  const names = gpuRows(quick)
    .map((row) => row.name)
    .filter((name) => name.includes(filter));
  if (names.length === 0) throw new KilnError(`no row of the GPU table has "${filter}" in its name`);
  return names;
}

/**
 * Times the GPU rows in child processes. A row that crashes its process, or hangs in it, costs only itself: the others go on
 * in a new one. Rows that did not fit in the time are named.
 *
 * @throws KilnError when no process got so far as to time a row
 */
export async function runRows(options: RowsOptions): Promise<{ run: GpuRun; leftOut: string[] }> {
  const names = rowNames(options.quick, options.filter);
  const results: GpuResult[] = [];
  const broken = new Map<string, string>();
  let head: RunHead | null = null;
  let whyNot = "no time";
  let failedStarts = 0;
  // This comes first, while nothing is warm except what an earlier process left in the driver's cache.
  const first = await timeFirstStep(options);
  const isDone = (name: string) => broken.has(name) || results.some((r) => r.name === name);
  const inTime = () => performance.now() < options.until;
  while (names.some((name) => !isDone(name)) && inTime()) {
    const { inRow, problem } = await runChild({ ...options, skip: names.filter(isDone) }, (line) => {
      head ??= line.head ?? null;
      if (line.result) {
        results.push(line.result);
        options.write(describeResult(line.result, options.unchecked));
      }
    });
    if (problem === null || !inTime()) break;
    if (inRow !== null) {
      broken.set(inRow, problem);
      options.write(`${inRow}: ${problem}`);
    } else if (++failedStarts === 2) {
      // Once may be an adapter that was still busy with what ended the process before.
      whyNot = problem;
      break;
    }
  }
  if (!head) throw new KilnError(`no row could be timed: ${inTime() ? whyNot : "the time was over before"}`);
  const leftOut = names
    .filter((name) => !results.some((r) => r.name === name))
    .map((name) => `${name} (${broken.get(name) ?? whyNot})`);
  const run = { head, results, ...(first.times && { first_step: first.times }) };
  return { run, leftOut: [...first.leftOut, ...leftOut] };
}

/** Twice in fresh processes: what the first one compiles, the second may find in the driver's cache. */
async function timeFirstStep(
  options: RowsOptions,
): Promise<{ times: GpuRun["first_step"] | null; leftOut: string[] }> {
  const { name } = firstStep(options.quick);
  const times: number[] = [];
  if (!name.includes(options.filter)) return { times: null, leftOut: [] };
  for (const which of ["cold", "warm"]) {
    let error: string | undefined;
    const { problem } = await runChild({ ...options, first: true }, ({ result }) => {
      if (!result) return;
      options.write(describeResult(result, options.unchecked));
      error = result.error;
      if (result.ms !== undefined) times.push(result.ms);
    });
    const why = error ?? problem;
    // Where it fails or hangs once, a second try would only take the time of all other rows.
    if (why !== null) return { times: null, leftOut: [`${name}, ${which} (${why})`] };
  }
  return { times: { cold_ms: times[0], warm_ms: times[1] }, leftOut: [] };
}

function describeResult(result: GpuResult, unchecked: boolean): string {
  const { name, device_ms, ms, error } = result;
  const time = error ?? `${(device_ms ?? ms!).toPrecision(4)} ms`;
  return `${unchecked ? "unchecked" : "checked"} ${name}: ${time}`;
}

interface ChildLine {
  head?: RunHead;
  begin?: string;
  result?: GpuResult;
}

interface ChildOptions extends RowsOptions {
  skip?: readonly string[];
  first?: boolean;
}

/**
 * Runs one child to its end, its limit or the deadline. `inRow` names the row that was not finished, if any; `problem`
 * is null where it went through all of its rows.
 */
function runChild(
  options: ChildOptions,
  hear: (line: ChildLine) => void,
): Promise<{ inRow: string | null; problem: string | null }> {
  const { quick, filter, skip, first, unchecked, until, limits = usualLimits } = options;
  const script = options.script ?? join(packageRoot, "bench/gpu/child.mjs");
  const work = JSON.stringify({ quick, filter: first ? "" : filter, skip, first, ms: quick ? 30 : 500 });
  const child = spawn(process.execPath, [script, work], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, KILN_UNCHECKED: unchecked ? "1" : "" },
  });
  const limit = first ? limits.first : limits.row;
  let inRow: string | null = null;
  let gaveUp: string | null = null;
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(-2000);
  });
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout;
    const abandon = () => {
      child.unref();
      child.stdout.destroy();
      child.stderr.destroy();
      resolve({ inRow, problem: gaveUp });
    };
    const giveUp = (problem: string) => {
      gaveUp = problem;
      child.kill("SIGKILL");
      // A process that hangs in its driver may not die: nobody waits for it then.
      timer = setTimeout(abandon, 3000);
    };
    const expectLine = () => {
      clearTimeout(timer);
      const left = Math.max(0, until - performance.now());
      const problem = left < limit ? "no time" : `over ${limit / 1000} s`;
      timer = setTimeout(() => giveUp(problem), Math.min(left, limit));
    };
    expectLine();
    createInterface({ input: child.stdout }).on("line", (text) => {
      if (!text.startsWith("{") || gaveUp !== null) return;
      expectLine();
      const line = JSON.parse(text) as ChildLine;
      if (line.begin) inRow = line.begin;
      if (line.result) inRow = null;
      hear(line);
    });
    child.on("error", (error) => resolve({ inRow, problem: error.message }));
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      const message = errors.match(/^\w*Error: .*/m)?.[0].replace(/^KilnError: /, "");
      const end = status === 0 ? null : message || `process ended (${signal ?? status})`;
      resolve({ inRow, problem: gaveUp ?? end });
    });
  });
}
