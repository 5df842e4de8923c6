import { header } from "../report.ts";
import { type Bar, barsOf, type GpuResult, type GpuRun } from "./bars.ts";
import type { GpuTable } from "./table.ts";
import type { TorchLine } from "./torch.ts";

/** The table as Markdown: what it was taken on, the bars, every task beside PyTorch's, what is missing. */
export function renderTable(table: GpuTable): string {
  const { checked, unchecked, torch, left_out, seconds } = table;
  const runs = [checked, unchecked].filter((run) => run !== null);
  return [
    "# GPU table",
    "",
    ...runs.flatMap((run) => [...header(run.head).split("\n"), ""]),
    `Kernels are timed by timestamp queries except where it says wall, steps and decoding by the wall clock. This took ${seconds.toFixed(0)} s.`,
    "",
    "## Bars",
    "",
    ...barLines(checked, unchecked, torch),
    "",
    ...firstStepLines(runs),
    "## Task by task",
    "",
    "PyTorch: each variant's time, and in brackets how many times faster kiln is, checked / unchecked.",
    "rows_add is x + x on both sides, counted here as one read and one write; rows_add_two is x + y, two reads and a write, and decides the bar.",
    "",
    ...taskLines(checked, unchecked, torch),
    "",
    "## Not measured",
    "",
    ...(left_out.length > 0 ? left_out.map((line) => `- ${line}`) : ["Nothing was left out."]),
    "",
  ].join("\n");
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)];
}

function barLines(checked: GpuRun | null, unchecked: GpuRun | null, torch: readonly TorchLine[]): string[] {
  const [on, off] = [checked, unchecked].map((run) => (run ? barsOf(run, torch) : [])) as [Bar[], Bar[]];
  const verdict = (bars: readonly Bar[], { task, wanted }: Bar) => {
    const bar = bars.find((b) => b.task === task && b.wanted === wanted);
    if (!bar || bar.found === null) return "not measured";
    return `${bar.found}${bar.met === null ? "" : bar.met ? ", met" : ", **missed**"}`;
  };
  const rows = (checked ? on : off).map((bar) => [bar.task, bar.wanted, verdict(on, bar), verdict(off, bar)]);
  return markdown(["task", "bar", "bounds checks on", "off"], rows);
}

function firstStepLines(runs: readonly GpuRun[]): string[] {
  return runs.flatMap(({ first_step: step, head }) => {
    if (!step) return [];
    const seconds = (ms: number) => `${(ms / 1e3).toFixed(2)} s`;
    const which = head.unchecked ? "unchecked" : "checked";
    return [
      `First step of TinyLLM, from an open device, ${which}: ${seconds(step.cold_ms)}, in the next process ${seconds(step.warm_ms)}.`,
      "",
    ];
  });
}

/** Milliseconds that a figure is made of. */
const timeOf = (result: GpuResult) => result.device_ms ?? result.ms!;

/** Milliseconds, and the rate that a user compares by. */
function figure(result: GpuResult | undefined): string[] {
  if (result?.ms === undefined) return [result?.error ?? "-", "", ""];
  const { unit, gflops, gb_per_s, tokens_per_s, roofline } = result;
  const rate = tokens_per_s
    ? `${tokens_per_s.toFixed(0)} tokens/s`
    : unit === "GFLOP/s"
      ? `${(gflops! / 1e3).toPrecision(3)} TFLOP/s`
      : `${gb_per_s!.toPrecision(3)} GB/s`;
  const wall = result.kernel && result.device_ms === undefined ? " (wall)" : "";
  return [
    timeOf(result).toPrecision(4) + wall,
    rate,
    roofline === undefined ? "-" : `${(100 * roofline).toFixed(1)} %`,
  ];
}

function taskLines(checked: GpuRun | null, unchecked: GpuRun | null, torch: readonly TorchLine[]): string[] {
  const names = new Set([...(checked?.results ?? []), ...(unchecked?.results ?? [])].map(({ name }) => name));
  const rows = [...names].map((name) => {
    const [on, off] = [checked, unchecked].map((run) => run?.results.find((r) => r.name === name));
    const { task } = (on ?? off)!;
    const lines = torch.filter((line) => line.task === task);
    return [
      name,
      ...figure(on),
      ...figure(off),
      lines.map((line) => beside(line, on, off)).join("; ") || "-",
    ];
  });
  const software = (checked ?? unchecked)?.head.software ? " (software adapter)" : "";
  const head = ["ms", "rate", "% of roof"];
  return markdown(
    [`task${software}`, ...head.map((h) => `${h}, on`), ...head.map((h) => `${h}, off`), "PyTorch"],
    rows,
  );
}

function beside(line: TorchLine, on: GpuResult | undefined, off: GpuResult | undefined): string {
  const times = (r: GpuResult | undefined) =>
    r?.ms === undefined ? "-" : (line.ms / timeOf(r)).toPrecision(2);
  return `${line.variant} ${line.ms} ms (${times(on)} / ${times(off)} x)`;
}
