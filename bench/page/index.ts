import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { atomicWriteFile } from "../../core/platform/files.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { historyFolder, historyKey } from "../history.ts";
import type { BenchReport } from "../report.ts";

/** What the page's script draws: the runs of one adapter, driver and set of toggles, oldest first. */
export interface Section {
  title: string;
  facts: string[];
  software: boolean;
  runs: BenchReport[];
}

/**
 * Writes the recorded runs as one HTML page that needs nothing else: for each adapter, driver and set of toggles every
 * row over its runs, and the roofline of the last one (Williams et al. 2009). uPlot draws. Returns the path.
 *
 * @throws KilnError when nothing was recorded
 */
export async function writePage(path: string, folder: URL = historyFolder): Promise<string> {
  const runs = await readHistory(folder);
  if (runs.length === 0) throw new KilnError("no run was recorded yet: npm run bench -- --record");
  await atomicWriteFile(path, await renderPage(sections(runs)));
  return path;
}

/** All recorded runs, oldest first. */
export async function readHistory(folder: URL): Promise<BenchReport[]> {
  const names = await readdir(folder).catch(() => []);
  const files = names.filter((name) => name.endsWith(".jsonl")).sort();
  const texts = await Promise.all(files.map((name) => readFile(new URL(name, folder), "utf8")));
  const lines = texts.flatMap((text) => text.split("\n").filter(Boolean));
  const runs = lines.map((line) => JSON.parse(line) as BenchReport);
  return runs.sort((a, b) => a.date.localeCompare(b.date));
}

/** Runs that may be compared, together. */
export function sections(runs: readonly BenchReport[]): Section[] {
  const groups = new Map<string, BenchReport[]>();
  for (const run of runs) groups.set(historyKey(run), [...(groups.get(historyKey(run)) ?? []), run]);
  return [...groups.values()].map((group) => {
    const { adapter, unchecked, software, commit, date, node, load } = group.at(-1)!;
    const facts = [
      `Toggles ${adapter.toggles.join(" ") || "none"}; bounds checks ${unchecked ? "off" : "on"}.`,
      `Last run: commit ${commit}, ${date.slice(0, 16).replace("T", " ")} UTC, Node ${node}, load ${load.toFixed(1)}; ${group.length} recorded.`,
    ];
    return {
      title: `${adapter.driver}: ${adapter.description || adapter.device}`,
      facts,
      software,
      runs: group,
    };
  });
}

async function renderPage(data: readonly Section[]): Promise<string> {
  const here = (name: string) => readFile(join(packageRoot, "bench/page", name), "utf8");
  const { resolve } = createRequire(import.meta.url);
  const uplot = (name: string) => readFile(resolve(`uplot/dist/${name}`), "utf8");
  const [style, script] = [await here("style.css"), await here("draw.js")];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>kiln: benchmarks</title><style>${await uplot("uPlot.min.css")}${style}</style></head><body>
<h1>kiln: benchmarks</h1>
<p>Rates of every recorded run, kiln beside other libraries on the same adapter in the same run. Only runs of one section may be compared: its adapter, driver and toggles are equal.</p>
<main></main><noscript>The charts are drawn by a script.</noscript>
<script type="application/json" id="sections">${JSON.stringify(data).replaceAll("<", "\\u003c")}</script>
<script>${await uplot("uPlot.iife.min.js")}</script><script type="module">${script}</script>
</body></html>
`;
}
