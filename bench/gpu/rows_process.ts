import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { KilnError } from "../../core/errors.ts";
import type { RunHead } from "../report.ts";
import type { GpuResult, GpuRun } from "./bars.ts";
import { firstStep, gpuRows } from "./rows.ts";

export interface RowsOptions {
  quick: boolean;
  filter: string;
  /** Without bounds checks in shaders. */
  unchecked: boolean;
  /** When to stop, by `performance.now()`. */
  until: number;
  write: (line: string) => void;
}

/** A row that takes longer than this is given up, and its process with it. */
const rowLimitMs = 90_000;

/**
 * Times the GPU rows in child processes. A row that ends its process, or hangs in it, costs only itself: the others go
 * on in a new one. What the time did not suffice for is named.
 */
export async function runRows(options: RowsOptions): Promise<{ run: GpuRun; leftOut: string[] }> {
  const names = gpuRows(options.quick)
    .map((row) => row.name)
    .filter((name) => name.includes(options.filter));
  if (names.length === 0) throw new KilnError(`no row of the GPU table has "${options.filter}" in its name`);
  const results: GpuResult[] = [];
  const broken: string[] = [];
  let head: RunHead | null = null;
  // First of all, while nothing is warm but what an earlier process left in the driver's cache.
  const first = await timeFirstStep(options);
  const isDone = (name: string) => broken.includes(name) || results.some((r) => r.name === name);
  while (names.some((name) => !isDone(name)) && performance.now() < options.until) {
    const skip = names.filter(isDone);
    const ended = await runChild({ ...options, skip }, (line) => {
      head ??= line.head ?? null;
      if (line.result) {
        results.push(line.result);
        options.write(describeResult(line.result, options.unchecked));
      }
    });
    if (ended.inRow === null) {
      if (!head) throw new KilnError(`no row could be timed: ${ended.how}`);
      break;
    }
    if (performance.now() < options.until) {
      broken.push(ended.inRow);
      options.write(`${ended.inRow}: ${ended.how}`);
    }
  }
  if (!head) throw new KilnError("no row could be timed: the time was over before the first one");
  const leftOut = names
    .filter((name) => !results.some((r) => r.name === name))
    .map((name) => `${name} (${broken.includes(name) ? "its process ended" : "no time"})`);
  return { run: { head, results, ...(first && { first_step: first }) }, leftOut };
}

/** Twice in fresh processes: what the first one compiles, the second may find in the driver's cache. */
async function timeFirstStep(options: RowsOptions): Promise<GpuRun["first_step"] | null> {
  if (!firstStep(options.quick).name.includes(options.filter)) return null;
  const times: number[] = [];
  for (let i = 0; i < 2; i++) {
    await runChild({ ...options, first: true }, ({ result }) => {
      if (result?.ms !== undefined) times.push(result.ms);
      if (result) options.write(describeResult(result, options.unchecked));
    });
  }
  return times.length === 2 ? { cold_ms: times[0]!, warm_ms: times[1]! } : null;
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

/** Runs one child to its end, its row's limit or the deadline. `inRow` names the row that was not finished, if any. */
function runChild(
  options: ChildOptions,
  hear: (line: ChildLine) => void,
): Promise<{ inRow: string | null; how: string }> {
  const { quick, filter, skip, first, unchecked, until } = options;
  const script = fileURLToPath(new URL("./child.mjs", import.meta.url));
  const work = JSON.stringify({ quick, filter: first ? "" : filter, skip, first, ms: quick ? 30 : 500 });
  const child = spawn(process.execPath, [script, work], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, KILN_UNCHECKED: unchecked ? "1" : "" },
  });
  let inRow: string | null = null;
  let how = "";
  let timer: NodeJS.Timeout;
  const expectLine = () => {
    clearTimeout(timer);
    const left = Math.max(0, until - performance.now());
    timer = setTimeout(
      () => {
        how = left < rowLimitMs ? "no time" : `over ${rowLimitMs / 1000} s`;
        child.kill("SIGKILL");
      },
      Math.min(left, rowLimitMs),
    );
  };
  expectLine();
  createInterface({ input: child.stdout }).on("line", (text) => {
    if (!text.startsWith("{")) return;
    expectLine();
    const line = JSON.parse(text) as ChildLine;
    if (line.begin) inRow = line.begin;
    if (line.result) inRow = null;
    hear(line);
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(-2000);
  });
  return new Promise((resolve) => {
    child.on("error", (error) => resolve({ inRow, how: error.message }));
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      const message = errors.match(/^(?:\w*Error|KilnError): .*/m)?.[0];
      resolve({ inRow, how: how || message || `process ended (${signal ?? status})` });
    });
  });
}
