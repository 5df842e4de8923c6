import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { historyFolder, historyKey } from "../history.ts";
import type { BenchReport } from "../report.ts";
import { historyPlots } from "./history_plot.ts";
import { rooflinePlot } from "./roofline_plot.ts";
import { element, escapeText } from "./svg.ts";

/**
 * Writes the recorded runs as one HTML page that needs nothing else: for each adapter, driver and set of toggles every
 * row over its runs, and the roofline of the last one. Returns the path.
 *
 * @throws KilnError when nothing was recorded
 */
export async function writePage(path: string, folder: URL = historyFolder): Promise<string> {
  const runs = await readHistory(folder);
  if (runs.length === 0) throw new KilnError("no run was recorded yet: npm run bench -- --record");
  const style = await readFile(new URL("./style.css", import.meta.url), "utf8");
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, renderPage(runs, style));
  return path;
}

/** All recorded runs, oldest first. */
export async function readHistory(folder: URL): Promise<BenchReport[]> {
  const names = await readdir(folder).catch(() => []);
  const files = names.filter((name) => name.endsWith(".jsonl")).sort();
  const texts = await Promise.all(files.map((name) => readFile(new URL(name, folder), "utf8")));
  const runs = texts.flatMap((text) =>
    text
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as BenchReport),
  );
  return runs.sort((a, b) => a.date.localeCompare(b.date));
}

/** The page's HTML. */
export function renderPage(runs: readonly BenchReport[], style: string): string {
  const groups = new Map<string, BenchReport[]>();
  for (const run of runs) groups.set(historyKey(run), [...(groups.get(historyKey(run)) ?? []), run]);
  return [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>kiln: benchmarks</title><style>${style}</style></head><body>`,
    "<h1>kiln: benchmarks</h1>",
    "<p>Rates of every recorded run, kiln beside other libraries on the same adapter in the same run. Only runs of one section may be compared: its adapter, driver and toggles are equal.</p>",
    ...[...groups.values()].map(section),
    "</body></html>",
    "",
  ].join("\n");
}

function section(runs: readonly BenchReport[]): string {
  const last = runs.at(-1)!;
  const { adapter, unchecked, software, commit, date, node, load } = last;
  const title = `${adapter.driver}: ${adapter.description || adapter.device}`;
  const facts = [
    `Toggles ${adapter.toggles.join(" ") || "none"}; bounds checks ${unchecked ? "off" : "on"}.`,
    `Last run: commit ${commit}, ${date.slice(0, 16).replace("T", " ")} UTC, Node ${node}, load ${load.toFixed(1)}; ${runs.length} recorded.`,
  ];
  return [
    `<section><h2>${escapeText(title)}</h2>`,
    ...facts.map((fact) => element("p", { class: "meta" }, escapeText(fact))),
    ...(software
      ? [
          '<p class="warning">Software adapter: these are figures of a processor. They say nothing about a GPU.</p>',
        ]
      : []),
    "<h3>Every row over the runs</h3>",
    historyPlots(runs),
    "<h3>Roofline of the last run</h3>",
    ...(last.results.some(({ precision }) => precision === "f16")
      ? ['<p class="meta">Rings are products of f16, discs of f32.</p>']
      : []),
    rooflinePlot(last),
    "</section>",
  ].join("\n");
}
