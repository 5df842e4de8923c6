import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { barsOf, type GpuRun } from "./bars.ts";
import { renderTable } from "./render.ts";
import { runRows } from "./rows_process.ts";
import { runTorch, type TorchLine, whyNoTorch } from "./torch.ts";

export interface GpuTableOptions {
  /** Folder for gpu_table.md, gpu_table.json and torch.jsonl. */
  out: string;
  /** Seconds for everything; what does not fit is left out, and said to be. */
  budget?: number | undefined;
  /** PyTorch's ruler, or lines of an earlier run of it (`.jsonl`). */
  torch?: string | undefined;
  /** Only rows whose name contains this. */
  filter?: string | undefined;
  /** Small sizes: shows that it runs. */
  quick?: boolean | undefined;
  write?: ((line: string) => void) | undefined;
}

export interface GpuTable {
  /** With bounds checks in shaders, and without. */
  checked: GpuRun;
  unchecked: GpuRun | null;
  torch: TorchLine[];
  /** What was not measured, and why. */
  left_out: string[];
  seconds: number;
}

/**
 * Measures the project's GPU table on this machine: kiln with and without bounds checks, each in processes of its own,
 * then PyTorch on the same GPU where it is installed; writes Markdown and JSON. Ends by itself within the budget.
 *
 * @throws KilnError when no process of kiln could open the adapter
 */
export async function gpuTable(options: GpuTableOptions): Promise<GpuTable> {
  const { budget = 470, torch: ruler = ".gpu/torch_bench.py", quick = false, write = console.log } = options;
  const start = performance.now();
  const at = (share: number) => start + 1000 * budget * share;
  mkdirSync(options.out, { recursive: true });
  const left_out: string[] = [];
  const noTorch = whyNoTorch(ruler);
  if (noTorch) left_out.push(`PyTorch: ${noTorch}`);
  const measuresTorch = !noTorch && !ruler.endsWith(".jsonl");
  // PyTorch compiles two models: it needs more than a third of the time.
  const end = measuresTorch ? 0.62 : 0.97;
  const common = { quick, filter: options.filter ?? "", write };
  const checked = await runRows({ ...common, unchecked: false, until: at(end / 2) });
  left_out.push(...checked.leftOut.map((name) => `${name}, checked`));
  const unchecked = await runRows({ ...common, unchecked: true, until: at(end) }).catch((error: Error) => {
    left_out.push(`everything unchecked: ${error.message}`);
    return null;
  });
  left_out.push(...(unchecked?.leftOut ?? []).map((name) => `${name}, unchecked`));
  const torch: TorchLine[] = [];
  if (!noTorch) {
    const problem = await runTorch(ruler, at(0.98) - performance.now(), (line) => {
      torch.push(line);
      write(`PyTorch ${line.task} ${line.variant}: ${line.ms} ms`);
    });
    if (problem) left_out.push(`PyTorch's other tasks: ${problem}`);
  }
  const table: GpuTable = {
    checked: checked.run,
    unchecked: unchecked?.run ?? null,
    torch,
    left_out,
    seconds: (performance.now() - start) / 1e3,
  };
  save(table, options.out, write);
  return table;
}

function save(table: GpuTable, out: string, write: (line: string) => void): void {
  const text = renderTable(table);
  const bars = { checked: barsOf(table.checked, table.torch) };
  const more = table.unchecked ? { unchecked: barsOf(table.unchecked, table.torch) } : {};
  writeFileSync(join(out, "gpu_table.md"), text);
  writeFileSync(
    join(out, "gpu_table.json"),
    JSON.stringify({ ...table, bars: { ...bars, ...more } }, null, 1),
  );
  if (table.torch.length > 0) {
    const lines = table.torch.map((line) => `${JSON.stringify(line)}\n`);
    writeFileSync(join(out, "torch.jsonl"), lines.join(""));
  }
  write(text);
  write(`written: ${join(out, "gpu_table.md")} and gpu_table.json`);
}
