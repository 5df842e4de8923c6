import { appendFile, mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { BenchReport } from "./run.ts";

const folder = new URL("./history/", import.meta.url);

/** Adds a run as one line to its adapter's file and returns the file's path. Quick runs are no measurements: refused. */
export async function record(report: BenchReport, into: URL = folder): Promise<string> {
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
