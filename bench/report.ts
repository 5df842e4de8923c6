import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { type AdapterDescription, describe } from "../core/platform/adapter.ts";
import { packageRoot } from "../core/platform/package_node.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { measureRoofline, type Roofline } from "./roofline.ts";
import type { Row } from "./rows/row.ts";

/** One line of the table. */
export interface BenchResult {
  name: string;
  /** `kiln`, or a peer with its version. */
  by: string;
  /** Median milliseconds of one unit of work, by the wall clock. */
  ms?: number;
  /** Median processor time, all threads together. */
  cpu_ms?: number;
  /** Median milliseconds on the device, by timestamp queries: kernels on a GPU, where the host would else hide them. */
  device_ms?: number;
  /** The very first unit of work, compilation included. */
  first_ms?: number;
  samples?: number;
  gflops?: number;
  gb_per_s?: number;
  tokens_per_s?: number;
  unit: Row["unit"];
  precision?: "f32" | "f16";
  /** Share of what the adapter's measured roofs allow, 0 to 1; absent if no roof of that precision is known. */
  roofline?: number;
  /** kiln's time as a share of this one's; peers only. Below 1, kiln is faster. */
  kiln_ratio?: number;
  /** Why there is no figure. */
  error?: string;
}

/** The conditions of a run: figures of two runs may be compared only if these agree. */
export interface RunHead {
  date: string;
  commit: string;
  adapter: AdapterDescription;
  /** True where shaders run on the processor: figures then say nothing about a GPU. */
  software: boolean;
  /** Bounds checks dropped from shaders (KILN_UNCHECKED=1), peers' included. */
  unchecked: boolean;
  node: string;
  /** Processes that wanted to run when the measurement began, over a minute: more than the cores is too many. */
  load: number;
  quick: boolean;
  roofline: Roofline;
}

export interface BenchReport extends RunHead {
  results: BenchResult[];
}

/** Describes the run and measures the adapter's roofs, in about `ms` milliseconds each. */
export async function beginRun(device: WebGpuDevice, quick: boolean, ms: number): Promise<RunHead> {
  const { description } = device;
  return {
    date: new Date().toISOString(),
    commit: commit(),
    adapter: description,
    software: description.software,
    unchecked: description.toggles.includes("+disable_robustness"),
    node: process.version,
    load: loadavg()[0],
    quick,
    roofline: await measureRoofline(device, ms),
  };
}

export function header(run: RunHead): string {
  const { roofline, adapter } = run;
  return [
    describe(adapter),
    `toggles ${adapter.toggles.join(" ") || "none"}; bounds checks ${run.unchecked ? "OFF (KILN_UNCHECKED=1)" : "on"}`,
    `commit ${run.commit}, ${run.date}, Node ${run.node}, load ${run.load.toFixed(1)}${run.quick ? ", QUICK: not for comparison" : ""}`,
    `roofs measured now: ${roofline.gflops.toFixed(1)} GFLOP/s f32 multiply-add, ${roofline.gb_per_s.toFixed(1)} GB/s copy`,
    ...(adapter.software
      ? ["SOFTWARE ADAPTER: every figure below is of a processor, and says nothing about a GPU."]
      : []),
  ].join("\n");
}

/**
 * The commit that is checked out, with a mark when the tree differs from it. `KILN_COMMIT` says it where the sources were
 * copied without their history; without git, the files of `.git` are read, and the mark cannot be given.
 */
export function commit(): string {
  if (process.env.KILN_COMMIT) return process.env.KILN_COMMIT;
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: packageRoot,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    // Records of earlier runs change no figure of this one.
    const changed = git("status", "--porcelain", "-uno", "--", ".", ":!bench/history");
    return git("rev-parse", "--short", "HEAD") + (changed ? "+changes" : "");
  } catch {
    return commitFromFiles(join(packageRoot, ".git")) ?? "unknown";
  }
}

/** What HEAD of a git folder points to, shortened. */
function commitFromFiles(folder: string): string | null {
  const text = (name: string) =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name), "utf8").trim() : "";
  const head = text("HEAD");
  const ref = head.startsWith("ref: ") ? head.slice(5) : null;
  const packed = text("packed-refs").split("\n");
  const hash = ref
    ? text(ref) || packed.find((line) => line.endsWith(` ${ref}`))?.slice(0, 40)
    : head.slice(0, 40);
  return hash ? hash.slice(0, 7) : null;
}
