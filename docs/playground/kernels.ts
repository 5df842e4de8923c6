import { type TimedDispatch, timeDispatches, type WebGpuDevice } from "kiln";
import type { KernelRow } from "./protocol.ts";
import type { Run } from "./run.ts";

/** Browsers round timestamps to 0.1 ms: over several steps the errors even out. */
const steps = 5;

/** The kernels of a training step with the time of each, longest first. The run is afterwards where it was. */
export async function measureKernels(run: Run, device: WebGpuDevice): Promise<KernelRow[]> {
  const before = await run.snapshot();
  try {
    await run.step();
    const timed: TimedDispatch[] = [];
    for (let i = 0; i < steps; i++)
      timed.push(...(await timeDispatches(device, async () => void (await run.step()))));
    return kernelRows(timed, steps);
  } finally {
    run.restore(before);
  }
}

/** The dispatches of several equal steps, by kernel. */
export function kernelRows(timed: readonly TimedDispatch[], steps: number): KernelRow[] {
  const rows = new Map<string, KernelRow>();
  for (const { op, variant, file, source, start, end } of timed) {
    const row = rows.get(source) ?? { label: `${op}/${variant}`, file, source, calls: 0, ms: 0, share: 0 };
    row.calls += 1 / steps;
    row.ms += (end - start) / 1e6 / steps;
    rows.set(source, row);
  }
  const all = [...rows.values()];
  const total = all.reduce((sum, { ms }) => sum + ms, 0);
  return all
    .map((row) => ({ ...row, calls: Math.round(row.calls), share: total > 0 ? row.ms / total : 0 }))
    .sort((a, b) => b.ms - a.ms);
}
