import { setTimeout as delay } from "node:timers/promises";
import { KilnError } from "../../core/errors.ts";
import { firstLine } from "../../core/platform/files.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import type { Roofline } from "../roofline.ts";
import type { GpuRow } from "../rows/row.ts";
import { timeRow } from "../time_row.ts";
import type { GpuResult } from "./bars.ts";

/** What is said of a row: that it begins, then its result, which may be an error. */
export type RowLine = { begin: string } | { result: GpuResult };

/** A lost device may be noticed by the failing call first, and only then be reported. */
const lossIsKnownMs = 500;

/**
 * Times rows one after the other. If a row fails, the reason is its result and the others go on. A lost device ends the run,
 * since every later row would fail with it.
 *
 * @throws KilnError `device_lost`; the row that began last has no result then
 */
export async function timeRows(
  rows: readonly GpuRow[],
  device: WebGpuDevice,
  roof: Roofline,
  ms: number,
  say: (line: RowLine) => void,
): Promise<void> {
  for (const row of rows) {
    say({ begin: row.name });
    const { task, role, precision, unit } = row;
    const result = await timeRow(row, device, roof, ms).catch(async (error: unknown) => {
      await throwIfLost(device, error);
      return { name: row.name, by: "kiln", unit, error: firstLine(error) };
    });
    say({ result: { ...result, task, role, precision, ...(row.kernel && { kernel: true }) } });
  }
}

async function throwIfLost({ gpu }: WebGpuDevice, error: unknown): Promise<void> {
  if (error instanceof KilnError && error.code === "device_lost") throw error;
  const lost = await Promise.race([gpu.lost, delay(lossIsKnownMs, null)]);
  if (lost) throw new KilnError(`the GPU device was lost: ${lost.message}`, { code: "device_lost" });
}
