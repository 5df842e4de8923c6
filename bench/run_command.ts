import { gpuTable } from "./gpu/table.ts";
import { record } from "./history.ts";
import { writePage } from "./page/index.ts";
import { type BenchOptions, bench } from "./run.ts";

/** What `kiln bench` may be told. */
export interface BenchFlags extends BenchOptions {
  gpuTable?: boolean;
  out: string;
  budget: number;
  torch: string;
  /** A file name, or true for the default one. */
  page?: string | true;
}

/** `kiln bench`: the page of what was recorded, the GPU table, or a run of the rows. */
export async function runBench(flags: BenchFlags): Promise<void> {
  if (flags.page) {
    const path = await writePage(flags.page === true ? "runs/bench.html" : flags.page);
    console.log(`written: ${path}`);
  } else if (flags.gpuTable) {
    const { checked, unchecked } = await gpuTable(flags);
    for (const run of flags.record ? [checked, unchecked] : []) {
      if (run) console.log(`recorded in ${await record({ ...run.head, results: run.results })}`);
    }
  } else await bench(flags);
}
