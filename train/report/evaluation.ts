import { join } from "node:path";
import { atomicWriteText, writeJson } from "../../core/platform/files.ts";
import { makeFolder } from "../../core/platform/folders.ts";
import { escapeXml } from "./svg.ts";

export interface ReportTable {
  /** Names of the columns. */
  head: readonly string[];
  rows: readonly (readonly unknown[])[];
}

/** What an evaluation found, for programs and for people. */
export interface EvaluationReport {
  title: string;
  /** All numbers and how they were measured: the content of report.json. */
  values: Record<string, unknown>;
  tables: ReportTable[];
  /** Long tables, for the files and not for the terminal. */
  details?: ReportTable[];
  /** Sentences below the tables. */
  notes: string[];
  /** Whole SVG files. */
  figures?: { title: string; svg: string }[];
}

/** A table of names and values. */
export const valueTable = (values: object): ReportTable => ({
  head: ["metric", "value"],
  rows: Object.entries(values),
});

/** Numbers in five digits, whole ones with thousands separated. */
function cellText(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(cellText).join(" to ");
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e5
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(5)));
}

/** The report in GitHub's Markdown, with columns that line up on a terminal; without the details and figures. */
export function reportMarkdown({ title, tables, notes }: EvaluationReport): string {
  const blocks = tables.map(({ head, rows }) => {
    const cells = [head, ...rows].map((row) => row.map((cell) => cellText(cell).replace(/[\n|]/g, " ")));
    const widths = head.map((_, i) => Math.max(3, ...cells.map((row) => [...row[i]].length)));
    const line = (row: readonly string[]) =>
      `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(" | ")} |`;
    const rule = `| ${widths.map((width, i) => (i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |`;
    return [line(cells[0]), rule, ...cells.slice(1).map(line)].join("\n");
  });
  return `${[`# ${title}`, ...blocks, ...notes].join("\n\n")}\n`;
}

const style = `
  :root { color-scheme: light dark; }
  body { margin: 0 auto; padding: 24px 16px; max-width: 880px; background: #ffffff; color: #18181b;
    font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
  h1 { font-size: 22px; line-height: 1.3; } p, th { color: #52525b; }
  .wide { overflow-x: auto; margin: 0 0 24px; } img { display: block; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid #e4e4e7; text-align: right; white-space: nowrap; }
  th { font-weight: 500; } th:first-child, td:first-child { text-align: left; }
  @media (prefers-color-scheme: dark) {
    body { background: #18181b; color: #fafafa; } p, th { color: #a1a1aa; } th, td { border-color: #3f3f46; }
  }`;

/** One HTML file that needs no other: figures are inside it. */
function reportHtml({ title, tables, details = [], notes, figures = [] }: EvaluationReport): string {
  const cells = (tag: string, row: readonly unknown[]) =>
    `<tr>${row.map((cell) => `<${tag}>${escapeXml(cellText(cell))}</${tag}>`).join("")}</tr>`;
  const table = ({ head, rows }: ReportTable) =>
    `<div class="wide"><table>${cells("th", head)}${rows.map((row) => cells("td", row)).join("")}</table></div>`;
  // As images, so that the styles of one do not reach another.
  const figure = ({ title, svg }: { title: string; svg: string }) =>
    `<div class="wide"><img alt="${escapeXml(title)}" src="data:image/svg+xml;base64,${Buffer.from(svg).toString("base64")}"></div>`;
  return [
    `<!doctype html>\n<html lang="en"><head><meta charset="utf-8">`,
    `<meta name="viewport" content="width=device-width, initial-scale=1">`,
    `<title>${escapeXml(title)}</title><style>${style}\n</style></head><body>`,
    `<h1>${escapeXml(title)}</h1>`,
    ...tables.map(table),
    ...notes.map((note) => `<p>${escapeXml(note)}</p>`),
    ...figures.map(figure),
    ...details.map(table),
    "</body></html>\n",
  ].join("\n");
}

/** Writes report.json, report.md and report.html into a folder, which is made if it is not there. */
export async function writeReport(folder: string, report: EvaluationReport): Promise<void> {
  makeFolder(folder);
  await writeJson(join(folder, "report.json"), report.values);
  atomicWriteText(
    join(folder, "report.md"),
    reportMarkdown({ ...report, tables: [...report.tables, ...(report.details ?? [])] }),
  );
  atomicWriteText(join(folder, "report.html"), reportHtml(report));
}
