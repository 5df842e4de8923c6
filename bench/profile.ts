import { writeFile } from "node:fs/promises";
import { KilnError } from "../core/errors.ts";
import { describe } from "../core/platform/adapter.ts";
import { show } from "../core/shape.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { checkTimestamps, type TimedDispatch, timeDispatches } from "../core/webgpu/timestamps.ts";
import type { CausalLM } from "../models/decoder.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import { bytesOf, flopsOf } from "./costs.ts";
import { measureRoofline, type Roofline } from "./roofline.ts";
import { prepareDecoding, prepareTraining, tinyllm } from "./rows/models.ts";
import type { Prepared } from "./rows/row.ts";

export interface ProfileOptions {
  /** Model folder; an untrained TinyLLM (vocabulary 2048) when absent. */
  model?: string | undefined;
  /** Where to write a Chrome trace (chrome://tracing, Perfetto) of the step. */
  trace?: string | undefined;
  /** A line for each set of shapes instead of each kernel. */
  shapes?: boolean | undefined;
  /** One JSON object instead of a table. */
  json?: boolean | undefined;
  /** Steps timed with and without timestamps; the median one is shown. */
  steps?: number | undefined;
  write?: ((line: string) => void) | undefined;
}

/** All dispatches of one kernel in the step. */
export interface ProfileRow {
  /** `op/variant`, with the kernel's file where a variant has several, and the shapes where they are asked for. */
  label: string;
  calls: number;
  ms: number;
  /** Of the time from the first dispatch's begin to the last one's end, 0 to 1. */
  share: number;
  /** Where the number of operations is known. */
  gflops?: number;
  /** Bytes of the tensors that it binds, each as a whole; of rows that it looks up, these alone. */
  gb_per_s?: number;
  /** The least time that the measured roofs allow, over the time taken. */
  limit?: number;
}

export interface ProfileReport {
  work: string;
  adapter: string;
  /** True where shaders run on the processor: figures then say nothing about a GPU. */
  software: boolean;
  roofline: Roofline;
  dispatches: number;
  /** Median wall time of a step without timestamps, until the device is idle or the logits are read. */
  step_ms: number;
  /** Median time that the host needs to record and submit a step without timestamps, over its dispatches. */
  host_us_per_dispatch: number;
  /** From the first dispatch's begin to the last one's end, with timestamps. */
  span_ms: number;
  /** Longest first; the last one is the time between dispatches. All `ms` add up to `span_ms`. */
  rows: ProfileRow[];
}

/**
 * Where the time of a training step (8 rows of 128 tokens) or of a decode step (one sequence of 128 tokens) goes,
 * kernel by kernel, by timestamp queries.
 *
 * @throws KilnError where the adapter has no timestamp queries, or the trace cannot be written
 */
export async function profile(
  device: WebGpuDevice,
  what: "train" | "decode",
  options: ProfileOptions = {},
): Promise<ProfileReport> {
  const { steps = 5, write = console.log } = options;
  checkTimestamps(device);
  // Nobody wants to hear at the end that the file cannot be written.
  if (options.trace) await writeTrace(options.trace, []);
  const model = options.model ? (await loadModel(options.model)).model : tinyllm();
  const { work, prepared } = await prepareWork(device, what, model);
  await prepared.run(1);
  const free = await timeSteps(prepared, steps);
  const timed: TimedDispatch[][] = [];
  for (let i = 0; i < steps; i++) timed.push(await timeDispatches(device, () => prepared.run(1)));
  prepared.dispose();
  const step = medianBy(timed, (dispatches) => dispatches.at(-1)!.end);
  const { software } = device.description;
  const roofline = await measureRoofline(device, 500);
  const report: ProfileReport = {
    work: `${work}, ${options.model ?? "TinyLLM"}`,
    adapter: describe(device.description),
    software,
    roofline,
    dispatches: step.length,
    step_ms: medianBy(free, (t) => t.wall).wall,
    host_us_per_dispatch: (1000 * medianBy(free, (t) => t.host).host) / step.length,
    span_ms: step.at(-1)!.end / 1e6,
    rows: rowsOf(step, roofline, options.shapes ?? false),
  };
  if (options.trace) await writeTrace(options.trace, step);
  for (const line of options.json ? [JSON.stringify(report)] : render(report)) write(line);
  return report;
}

async function prepareWork(
  device: WebGpuDevice,
  what: "train" | "decode",
  model: CausalLM,
): Promise<{ work: string; prepared: Prepared }> {
  const length = Math.min(128, model.shape.max_position_embeddings);
  if (what === "train")
    return {
      work: `training step of 8 x ${length} tokens`,
      prepared: await prepareTraining(device, model, 8, length),
    };
  return {
    work: `decode step of one sequence, ${length} tokens`,
    prepared: await prepareDecoding(model, 1, length),
  };
}

/** Milliseconds until the host has recorded a step, and until it is done. */
async function timeSteps(prepared: Prepared, steps: number): Promise<{ host: number; wall: number }[]> {
  const times: { host: number; wall: number }[] = [];
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    // An async function runs up to its first wait before it returns: that is the recording.
    const done = prepared.run(1);
    const host = performance.now() - start;
    await done;
    times.push({ host, wall: performance.now() - start });
  }
  return times;
}

function medianBy<T>(items: readonly T[], key: (item: T) => number): T {
  return [...items].sort((a, b) => key(a) - key(b))[Math.floor(items.length / 2)];
}

function shapesOf({ inputs, outputs }: TimedDispatch): string {
  const list = (metas: TimedDispatch["inputs"]) => metas.map((t) => show(t.shape)).join(" ");
  return outputs.length > 0
    ? `${list(inputs.slice(0, 2))} -> ${list(outputs.slice(0, 1))}`
    : list(inputs.slice(0, 2));
}

/** Sums over the dispatches of each kernel, and the time between dispatches. */
function rowsOf(step: readonly TimedDispatch[], roof: Roofline, shapes: boolean): ProfileRow[] {
  const files = new Map<string, Set<string>>();
  const name = ({ op, variant }: TimedDispatch) => `${op}/${variant}`;
  for (const d of step) files.set(name(d), (files.get(name(d)) ?? new Set()).add(d.file));
  const groups = new Map<string, TimedDispatch[]>();
  for (const d of step) {
    const file = files.get(name(d))!.size > 1 ? ` (${d.file})` : "";
    const label = `${name(d)}${file}${shapes ? ` ${shapesOf(d)}` : ""}`;
    groups.set(label, [...(groups.get(label) ?? []), d]);
  }
  const span = step.at(-1)!.end;
  const rows = [...groups].map(([label, group]) => rowOf(label, group, span, roof));
  rows.sort((a, b) => b.ms - a.ms);
  const between = span / 1e6 - rows.reduce((sum, row) => sum + row.ms, 0);
  return [
    ...rows,
    { label: "between dispatches", calls: step.length - 1, ms: between, share: (between * 1e6) / span },
  ];
}

function rowOf(label: string, group: readonly TimedDispatch[], span: number, roof: Roofline): ProfileRow {
  const sum = (of: (d: TimedDispatch) => number) => group.reduce((all, d) => all + of(d), 0);
  const ns = sum((d) => d.end - d.start);
  const gflops = sum((d) => flopsOf(d) ?? 0) / ns;
  const gb_per_s = sum(bytesOf) / ns;
  const halves = group.some((d) => d.inputs[0]?.dtype === "f16");
  const flopRoof = halves ? roof.f16_gflops : roof.gflops;
  return {
    label,
    calls: group.length,
    ms: ns / 1e6,
    share: ns / span,
    ...(ns > 0 && {
      ...(gflops > 0 && { gflops }),
      gb_per_s,
      limit: Math.max(flopRoof ? gflops / flopRoof : 0, gb_per_s / roof.gb_per_s),
    }),
  };
}

function render(report: ProfileReport): string[] {
  const { roofline: roof, rows, dispatches, span_ms: span } = report;
  const width = Math.max(...rows.map((row) => row.label.length));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(width) : cell.padStart(13))).join(" | ")} |`;
  // The rate that is nearer to its roof is what holds the kernel up.
  const rate = ({ gflops = 0, gb_per_s = 0 }: ProfileRow) => {
    if (gflops / roof.gflops > gb_per_s / roof.gb_per_s) return `${gflops.toFixed(1)} GFLOP/s`;
    return gb_per_s > 0 ? `${gb_per_s.toFixed(2)} GB/s` : "";
  };
  return [
    `${report.work}: ${report.step_ms.toFixed(2)} ms; ${dispatches} dispatches in ${span.toFixed(2)} ms with timestamps; host ${report.host_us_per_dispatch.toFixed(1)} us per dispatch`,
    report.adapter,
    `roofs measured now: ${roof.gflops.toFixed(1)} GFLOP/s f32 multiply-add, ${roof.gb_per_s.toFixed(1)} GB/s copy`,
    line(["kernel", "calls", "ms", "% of step", `rate${report.software ? " (sw)" : ""}`, "% of roof"]),
    line(["-".repeat(width), ...Array.from({ length: 5 }, () => "-".repeat(13))]),
    ...rows.map((row) =>
      line([
        row.label,
        String(row.calls),
        row.ms.toFixed(3),
        (100 * row.share).toFixed(1),
        rate(row),
        row.limit === undefined ? "" : (100 * row.limit).toFixed(1),
      ]),
    ),
  ];
}

/** The step in Chrome's trace format: one complete event a dispatch, times in microseconds. */
async function writeTrace(path: string, step: readonly TimedDispatch[]): Promise<void> {
  const traceEvents = step.map((d) => ({
    name: `${d.op}/${d.variant}`,
    cat: "kernel",
    ph: "X",
    ts: d.start / 1e3,
    dur: (d.end - d.start) / 1e3,
    pid: 1,
    tid: 1,
    args: {
      file: d.file,
      grid: d.grid,
      inputs: d.inputs.map((t) => `${t.dtype}${show(t.shape)}`),
      outputs: d.outputs.map((t) => `${t.dtype}${show(t.shape)}`),
      bytes: bytesOf(d),
      flops: flopsOf(d),
    },
  }));
  try {
    await writeFile(path, JSON.stringify({ displayTimeUnit: "ms", traceEvents }));
  } catch (cause) {
    throw new KilnError(`the trace cannot be written: ${(cause as Error).message}`, { cause });
  }
}
