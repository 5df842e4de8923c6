import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteText } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import { barsOf, type GpuRun } from "./bars.ts";
import { renderTable } from "./render.ts";
import { rowNames, runRows } from "./rows_process.ts";
import { readTorch, runTorch, type TorchLine, taskRuns, whyNoTorch } from "./torch.ts";

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
  checked: GpuRun | null;
  unchecked: GpuRun | null;
  torch: TorchLine[];
  /** What was not measured, and why. */
  left_out: string[];
  seconds: number;
}

/**
 * Measures the project's GPU table on this machine: kiln with and without bounds checks, each in processes of its own,
 * then PyTorch on the same GPU where it is installed; writes Markdown and JSON after each of them. Ends by itself within
 * the budget.
 *
 * @throws KilnError when no row's name contains `filter`; when no row of kiln could be timed, after everything is written
 */
export async function gpuTable(options: GpuTableOptions): Promise<GpuTable> {
  const { budget = 470, torch: ruler = ".gpu/torch_bench.py", quick = false, filter = "" } = options;
  const { write = console.log, out } = options;
  const start = performance.now();
  const at = (share: number) => start + 1000 * budget * share;
  rowNames(quick, filter);
  makeFolder(out);
  const table: GpuTable = { checked: null, unchecked: null, torch: [], left_out: [], seconds: 0 };
  const saved = () => {
    table.seconds = (performance.now() - start) / 1e3;
    return save(table, out);
  };
  const noTorch = whyNoTorch(ruler);
  const earlier = !noTorch && ruler.endsWith(".jsonl");
  if (noTorch) table.left_out.push(`PyTorch: ${noTorch}`);
  if (earlier) table.torch = readTorch(ruler);
  // PyTorch compiles two models: it needs more than a third of the time.
  const end = noTorch || earlier ? 0.97 : 0.62;
  let whyNone = "";
  for (const [i, kind] of (["checked", "unchecked"] as const).entries()) {
    const until = at((end * (i + 1)) / 2);
    try {
      const { run, leftOut } = await runRows({
        quick,
        filter,
        write,
        unchecked: kind === "unchecked",
        until,
      });
      table[kind] = run;
      table.left_out.push(...leftOut.map((name) => `${name}, ${kind}`));
    } catch (error) {
      whyNone = (error as Error).message;
      table.left_out.push(`everything ${kind}: ${whyNone}`);
    }
    saved();
  }
  if (!noTorch && !earlier) await addTorch(table, ruler, at(0.98), write, saved);
  write(saved());
  write(`written: ${join(out, "gpu_table.md")} and gpu_table.json`);
  if (!table.checked && !table.unchecked) throw new KilnError(whyNone);
  return table;
}

/** Runs the ruler, and saves the table after each of its parts. */
async function addTorch(
  table: GpuTable,
  ruler: string,
  until: number,
  write: (line: string) => void,
  saved: () => void,
): Promise<void> {
  for (const [i, tasks] of taskRuns.entries()) {
    // A part that hangs leaves time for the next.
    const share = i < taskRuns.length - 1 ? 0.6 : 1;
    const ms = share * Math.max(0, until - performance.now());
    const problem = await runTorch(ruler, tasks, ms, (line) => {
      table.torch.push(line);
      write(`PyTorch ${line.task} ${line.variant}: ${line.ms} ms`);
    });
    if (problem) table.left_out.push(`PyTorch's other lines of ${tasks.join(", ")}: ${problem}`);
    saved();
  }
}

/** Writes the table, and gives its text. */
function save(table: GpuTable, out: string): string {
  const { checked, unchecked, torch } = table;
  const text = renderTable(table);
  const bars = {
    checked: checked && barsOf(checked, torch),
    unchecked: unchecked && barsOf(unchecked, torch),
  };
  atomicWriteText(join(out, "gpu_table.md"), text);
  atomicWriteText(join(out, "gpu_table.json"), JSON.stringify({ ...table, bars }, null, 1));
  if (torch.length > 0) {
    const lines = torch.map((line) => `${JSON.stringify(line)}\n`);
    atomicWriteText(join(out, "torch.jsonl"), lines.join(""));
  }
  return text;
}
