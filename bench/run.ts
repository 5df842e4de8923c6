import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { firstLine } from "../core/platform/files.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { record } from "./history.ts";
import { Peers } from "./peers.ts";
import { type BenchReport, type BenchResult, beginRun, header } from "./report.ts";
import { gpuRows, smallRows } from "./rows/index.ts";
import { gptTrainRow } from "./rows/models.ts";
import type { Row } from "./rows/row.ts";
import { renderRow, tableHead } from "./table.ts";
import { resultOf, timeRow } from "./time_row.ts";

export type { BenchReport } from "./report.ts";

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
      for (const result of await timeInTurn(row, device, report, peers, quick ? 20 : 500)) {
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

const rounds = 3;
/** Seconds after which a row has no further round. */
const patience = 10;

/**
 * kiln's figure, then each peer's with the ratio. Each is the best of up to three rounds in which all are timed in turn for
 * `ms`, so that a moment in which the machine had other work spoils no figure. A failure becomes a line with the reason.
 */
async function timeInTurn(
  row: Row,
  device: WebGpuDevice,
  { roofline }: BenchReport,
  peers: Peers | null,
  ms: number,
): Promise<BenchResult[]> {
  const best = new Map<string, BenchResult>();
  const keep = (result: BenchResult) => {
    const known = best.get(result.by);
    if (known && (result.ms ?? Infinity) >= (known.ms ?? Infinity)) return;
    best.set(result.by, { ...result, ...(known?.first_ms && { first_ms: known.first_ms }) });
  };
  const kiln = { name: row.name, by: "kiln", unit: row.unit };
  const end = performance.now() + patience * 1000;
  const again = () => !row.once && performance.now() < end;
  for (let round = 0; round === 0 || (round < rounds && again()); round++) {
    keep(await timeRow(row, device, roofline, ms).catch((error) => ({ ...kiln, error: firstLine(error) })));
    for (const { by, timing, error } of (row.peer && (await peers?.time(row.peer, ms))) || []) {
      if (timing) keep(resultOf(row, by, timing, roofline));
      else keep({ ...kiln, by, ...(error && { error }) });
    }
  }
  const own = best.get("kiln")!;
  return [...best.values()].map((result) =>
    result !== own && result.ms && own.ms ? { ...result, kiln_ratio: own.ms / result.ms } : result,
  );
}
