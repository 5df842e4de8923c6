import { execFileSync } from "node:child_process";
import { loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import type { AdapterDescription } from "../core/adapter.ts";
import { describe } from "../core/adapter.ts";
import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { record } from "./history.ts";
import { measure, type Timing } from "./measure.ts";
import { timePeers } from "./peers.ts";
import { measureRoofline, type Roofline } from "./roofline.ts";
import { allRows, type Row } from "./rows.ts";
import { renderRow, tableHead } from "./table.ts";

export interface BenchOptions {
  /** Only rows whose name contains this. */
  filter?: string | undefined;
  /** One JSON object at the end instead of a table. */
  json?: boolean | undefined;
  /** A fraction of the time and no peers: shows that it runs, not how fast. */
  quick?: boolean | undefined;
  /** Adds the result to bench/history. */
  record?: boolean | undefined;
  write?: ((line: string) => void) | undefined;
}

/** One line of the table. */
export interface BenchResult {
  name: string;
  /** `kiln`, or a peer with its version. */
  by: string;
  /** Median milliseconds of one unit of work. */
  ms?: number;
  /** Median processor time, all threads together. */
  cpu_ms?: number;
  samples?: number;
  gflops?: number;
  gb_per_s?: number;
  tokens_per_s?: number;
  unit: Row["unit"];
  /** Share of what the adapter's measured roofs allow, 0 to 1. */
  roofline?: number;
  /** kiln's time as a share of this one's; peers only. Below 1, kiln is faster. */
  kiln_ratio?: number;
  /** Why there is no figure. */
  error?: string;
}

export interface BenchReport {
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
  results: BenchResult[];
}

/**
 * Times kiln's kernels, a training step and decoding on this machine's adapter, and the peers that are installed on the
 * same adapter in the same run; writes a table. Every figure is also a share of the roofs measured at the start.
 *
 * @throws KilnError when no row's name contains `filter`.
 */
export async function bench(options: BenchOptions = {}): Promise<BenchReport> {
  const { filter = "", quick = false, json = false, write = console.log } = options;
  const rows = allRows().filter((row) => row.name.includes(filter));
  if (rows.length === 0) {
    const names = allRows().map((row) => row.name);
    throw new KilnError(`no benchmark's name contains "${filter}"; there are ${names.join(", ")}`);
  }
  const say = json ? () => {} : write;
  const device = await openDevice();
  try {
    const report = await begin(device, quick);
    say(header(report));
    for (const line of tableHead(report)) say(line);
    for (const row of rows) {
      for (const result of await timeRow(row, device, report, quick)) {
        report.results.push(result);
        say(renderRow(result, report));
      }
    }
    if (json) write(JSON.stringify(report));
    if (options.record) say(`recorded in ${await record(report)}`);
    return report;
  } finally {
    setDevice(null);
    device.close();
  }
}

async function begin(device: WebGpuDevice, quick: boolean): Promise<BenchReport> {
  const { description } = device;
  return {
    date: new Date().toISOString(),
    commit: commit(),
    adapter: description,
    software: description.software,
    unchecked: description.toggles.includes("+disable_robustness"),
    node: process.version,
    load: loadavg()[0]!,
    quick,
    roofline: await measureRoofline(device.gpu, description.software, quick ? 100 : 1500),
    results: [],
  };
}

function header(report: BenchReport): string {
  const { roofline, adapter } = report;
  return [
    describe(adapter),
    `toggles ${adapter.toggles.join(" ") || "none"}; bounds checks ${report.unchecked ? "OFF (KILN_UNCHECKED=1)" : "on"}`,
    `commit ${report.commit}, ${report.date}, Node ${report.node}, load ${report.load.toFixed(1)}${report.quick ? ", QUICK: not for comparison" : ""}`,
    `roofs measured now: ${roofline.gflops.toFixed(1)} GFLOP/s f32 multiply-add, ${roofline.gb_per_s.toFixed(1)} GB/s copy`,
    ...(adapter.software
      ? ["SOFTWARE ADAPTER: every figure below is of a processor, and says nothing about a GPU."]
      : []),
  ].join("\n");
}

/** The commit that is checked out, with a mark when the tree differs from it. */
function commit(): string {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: fileURLToPath(new URL("..", import.meta.url)),
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    return git("rev-parse", "--short", "HEAD") + (git("status", "--porcelain", "-uno") ? "+changes" : "");
  } catch {
    return "unknown";
  }
}

async function timeRow(row: Row, device: WebGpuDevice, report: BenchReport, quick: boolean) {
  const ms = quick ? 60 : 1000;
  const prepared = await row.prepare(device);
  const own = resultOf(row, "kiln", await measure(prepared.run, ms), report.roofline);
  prepared.dispose();
  await device.trim();
  const results = [own];
  for (const { by, timing, error } of row.peer && !quick ? await timePeers(row.name, row.peer, ms) : []) {
    if (timing) {
      const result = resultOf(row, by, timing, report.roofline);
      results.push({ ...result, kiln_ratio: own.ms! / timing.ms });
    } else results.push({ name: row.name, by, unit: row.unit, ...(error && { error }) });
  }
  return results;
}

function resultOf(row: Row, by: string, timing: Timing, roof: Roofline): BenchResult {
  const { ms, cpu_ms, samples } = timing;
  const gflops = row.flops / ms / 1e6;
  const gb_per_s = row.bytes / ms / 1e6;
  return {
    name: row.name,
    by,
    ms,
    cpu_ms,
    samples,
    gflops,
    gb_per_s,
    ...(row.tokens && { tokens_per_s: (row.tokens / ms) * 1e3 }),
    unit: row.unit,
    // The longer of the two times that the roofs allow is the least possible.
    roofline: Math.max(gflops / roof.gflops, gb_per_s / roof.gb_per_s),
  };
}
