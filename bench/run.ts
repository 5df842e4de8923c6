import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { gpuRows } from "./gpu/rows.ts";
import { record } from "./history.ts";
import { gptTrainRow } from "./model_rows.ts";
import { Peers } from "./peers.ts";
import { type BenchReport, type BenchResult, beginRun, header } from "./report.ts";
import { type Row, smallRows } from "./rows.ts";
import { renderRow, tableHead } from "./table.ts";
import { resultOf, timeRow } from "./time_row.ts";

export type { BenchReport, BenchResult } from "./report.ts";

export interface BenchOptions {
  /** Only rows whose name contains this. */
  filter?: string | undefined;
  /** `small` is for software adapters, `gpu` for GPUs; by the adapter when absent. */
  rows?: "small" | "gpu" | undefined;
  /** One JSON object at the end instead of a table. */
  json?: boolean | undefined;
  /** A fraction of the time and no peers: shows that it runs, not how fast. */
  quick?: boolean | undefined;
  /** False leaves the peers out. */
  peers?: boolean | undefined;
  /** Adds the result to bench/history. */
  record?: boolean | undefined;
  write?: ((line: string) => void) | undefined;
}

/**
 * Times kiln's kernels, a training step and decoding on this machine's adapter, and the peers that are installed on the
 * same adapter in the same run; writes a table. Every figure is also a share of the roofs measured at the start.
 *
 * @throws KilnError when no row's name contains `filter`.
 */
export async function bench(options: BenchOptions = {}): Promise<BenchReport> {
  const { filter = "", quick = false, json = false, write = console.log } = options;
  const device = await openDevice();
  const peers = quick || options.peers === false ? null : new Peers();
  try {
    const rows = chooseRows(
      options.rows ?? (device.profile.class === "gpu" ? "gpu" : "small"),
      filter,
      quick,
    );
    const say = json ? () => {} : write;
    const report: BenchReport = { ...(await beginRun(device, quick, quick ? 100 : 1500)), results: [] };
    say(header(report));
    if (peers && Peers.missing().length > 0)
      say(`not installed, and left out: ${Peers.missing().join(", ")}`);
    for (const line of tableHead(report)) say(line);
    for (const row of rows) {
      for await (const result of timeBoth(row, device, report, peers, quick ? 60 : 1000)) {
        report.results.push(result);
        say(renderRow(result, report));
      }
    }
    if (json) write(JSON.stringify(report));
    if (options.record) say(`recorded in ${await record(report)}`);
    return report;
  } finally {
    peers?.close();
    setDevice(null);
    device.close();
  }
}

function chooseRows(set: "small" | "gpu", filter: string, quick: boolean): Row[] {
  // The peers train a small model: a GPU's rows have it too.
  const all = set === "gpu" ? [...gpuRows(quick), gptTrainRow()] : smallRows();
  const rows = all.filter((row) => row.name.includes(filter));
  if (rows.length > 0) return rows;
  throw new KilnError(
    `no benchmark's name contains "${filter}"; there are ${all.map((row) => row.name).join(", ")}`,
  );
}

/** kiln's figure, then each peer's with the ratio. What fails is a line with the reason. */
async function* timeBoth(
  row: Row,
  device: WebGpuDevice,
  { roofline }: BenchReport,
  peers: Peers | null,
  ms: number,
): AsyncGenerator<BenchResult> {
  const own = await timeRow(row, device, roofline, ms).catch((error: Error) => ({
    name: row.name,
    by: "kiln",
    unit: row.unit,
    error: error.message.split("\n")[0]!,
  }));
  yield own;
  if (!row.peer || !peers) return;
  for (const { by, timing, error } of await peers.time(row.peer, ms)) {
    if (timing)
      yield {
        ...resultOf(row, by, timing, roofline),
        ...("ms" in own && { kiln_ratio: own.ms! / timing.ms }),
      };
    else yield { name: row.name, by, unit: row.unit, ...(error && { error }) };
  }
}
