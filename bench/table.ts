import type { BenchReport, BenchResult } from "./report.ts";

const widths = [30, 22, 8, 8, 18, 9, 8, 11];

function line(cells: readonly string[]): string {
  return `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`;
}

/** Three digits, never with an exponent. */
function short(value: number): string {
  return value < 1000 ? value.toPrecision(3) : value.toFixed(0);
}

/** The head of a Markdown table, so that a run can be pasted into a page. */
export function tableHead({ software }: BenchReport): string[] {
  const speed = software ? "speed (software)" : "speed";
  const head = ["work", "by", "ms", "cpu ms", speed, "% of roof", "tokens/s", "kiln faster"];
  return [line(head), line(widths.map((width) => "-".repeat(width)))];
}

export function renderRow(result: BenchResult, { software }: BenchReport): string {
  const { name, by, ms, cpu_ms, unit, roofline, tokens_per_s, kiln_ratio, error } = result;
  if (ms === undefined || roofline === undefined) return line([name, by, "-", "-", error ?? "-", "", "", ""]);
  const speed = unit === "GFLOP/s" ? result.gflops! : result.gb_per_s!;
  return line([
    name,
    by,
    short(ms),
    cpu_ms === undefined ? "" : short(cpu_ms),
    `${short(speed)} ${unit}${software ? " sw" : ""}`,
    `${(100 * roofline).toFixed(1)} %`,
    tokens_per_s === undefined ? "" : tokens_per_s.toFixed(0),
    kiln_ratio === undefined ? "" : `${(1 / kiln_ratio).toFixed(2)} x`,
  ]);
}
