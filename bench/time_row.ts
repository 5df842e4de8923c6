import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { timeDispatches } from "../core/webgpu/timestamps.ts";
import { measure, type Timing } from "./measure.ts";
import type { BenchResult } from "./report.ts";
import type { Roofline } from "./roofline.ts";
import type { Prepared, Row } from "./rows/row.ts";

/** Times kiln on one row for about `ms` milliseconds; on a GPU, kernels also by timestamp queries. */
export async function timeRow(
  row: Row,
  device: WebGpuDevice,
  roof: Roofline,
  ms: number,
): Promise<BenchResult> {
  const start = performance.now();
  let prepared = await row.prepare(device);
  try {
    if (!row.once && device.tuner.measures) {
      await prepared.run(1);
      // What was planned before a choice was made does not follow it.
      if (await device.tuner.measure(device)) {
        prepared.dispose();
        prepared = await row.prepare(device);
      }
    }
    if (row.once) {
      await prepared.run(1);
      const elapsed = performance.now() - start;
      const timing = { ms: elapsed, first_ms: elapsed, samples: 1 };
      return resultOf(row, "kiln", timing, roof);
    }
    const timing = await measure(prepared.run, ms);
    const stamps = device.profile.class === "gpu" && device.gpu.features.has("timestamp-query");
    const device_ms = row.kernel && stamps ? await deviceTime(device, prepared) : undefined;
    return resultOf(row, "kiln", { ...timing, ...(device_ms && { device_ms }) }, roof);
  } finally {
    prepared.dispose();
    await device.trim();
  }
}

/** Median milliseconds from the begin of a unit's first dispatch to the end of its last. */
async function deviceTime(device: WebGpuDevice, prepared: Prepared): Promise<number> {
  const units = 10;
  const times: number[] = [];
  for (let round = 0; round < 3; round++) {
    const dispatches = await timeDispatches(device, () => prepared.run(units));
    const each = dispatches.length / units;
    if (!Number.isInteger(each)) return Number.NaN;
    for (let i = 0; i < units; i++) {
      times.push((dispatches[(i + 1) * each - 1].end - dispatches[i * each].start) / 1e6);
    }
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

type Timed = Pick<Timing, "ms"> & Partial<Timing> & { device_ms?: number };

/** Figures of a timing. Rates are of the time on the device where that was taken. */
export function resultOf(row: Row, by: string, timing: Timed, roof: Roofline): BenchResult {
  const ms = timing.device_ms ?? timing.ms;
  const gflops = row.flops / ms / 1e6;
  const gb_per_s = row.bytes / ms / 1e6;
  const flopRoof = row.precision === "f16" ? roof.f16_gflops : roof.gflops;
  // The longer of the two times that the roofs allow is the least possible.
  const share = Math.max(flopRoof ? gflops / flopRoof : 0, gb_per_s / roof.gb_per_s);
  return {
    name: row.name,
    by,
    ...timing,
    gflops,
    gb_per_s,
    ...(row.tokens && { tokens_per_s: (row.tokens / timing.ms) * 1e3 }),
    unit: row.unit,
    ...(row.precision && { precision: row.precision }),
    ...((flopRoof || row.unit === "GB/s") && { roofline: share }),
  };
}
