import { appendFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { KilnError } from "../core/errors.ts";
import { packageRoot } from "../core/platform/package_node.ts";
import type { BenchReport } from "./report.ts";

export const historyFolder = pathToFileURL(join(packageRoot, "bench/history/"));

/** Runs with equal keys may be compared: the same adapter, driver and toggles, bounds checks among them. */
export function historyKey({ adapter }: BenchReport): string {
  const { driver, vendor, architecture, device, description, toggles } = adapter;
  return JSON.stringify([driver, vendor, architecture, device, description, [...toggles].sort()]);
}

/** Adds a run as one line to its adapter's file and returns the file's path. Throws for quick runs: they measure nothing. */
export async function record(report: BenchReport, into: URL = historyFolder): Promise<string> {
  if (report.quick) throw new KilnError("a quick run is no measurement; record one without --quick");
  const { adapter } = report;
  const name = [adapter.driver, adapter.description || adapter.device || adapter.vendor].join("-");
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 60)
    .replace(/^-|-$/g, "");
  const path = fileURLToPath(new URL(`${slug}.jsonl`, into));
  await mkdir(into, { recursive: true });
  await appendFile(path, `${JSON.stringify(report)}\n`);
  return path;
}
