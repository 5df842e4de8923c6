import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { record } from "../bench/history.ts";
import { allRows } from "../bench/rows.ts";
import { type BenchReport, bench } from "../bench/run.ts";
import { renderRow, tableHead } from "../bench/table.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-bench-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs rows quickly, without peers. */
async function quick(filter: string, json = false): Promise<{ report: BenchReport; lines: string[] }> {
  const lines: string[] = [];
  const report = await bench({ filter, json, quick: true, write: (line) => lines.push(line) });
  return { report, lines };
}

describe("bench", () => {
  it("times rows against roofs of the same run and labels figures of software adapters", async () => {
    const { report, lines } = await quick("matmul 256");
    const text = lines.join("\n");
    expect(report.results).toHaveLength(1);
    const row = report.results[0]!;
    expect(row).toMatchObject({ name: "matmul 256", by: "kiln", unit: "GFLOP/s" });
    expect(row.gflops! * row.ms!).toBeCloseTo((2 * 256 ** 3) / 1e6, 3);
    const { gflops, gb_per_s } = report.roofline;
    expect(row.roofline).toBe(Math.max(row.gflops! / gflops, row.gb_per_s! / gb_per_s));
    expect(text).toContain(`commit ${report.commit}`);
    expect(text).toContain("toggles");
    expect(text).toContain("QUICK");
    expect(text.includes("SOFTWARE ADAPTER")).toBe(report.adapter.software);
    expect(lines.at(-1)!.includes("GFLOP/s sw")).toBe(report.adapter.software);
  });

  it("gives JSON, and tokens per second where they count", async () => {
    const { lines } = await quick("decode TinyLLM batch 1 ".trim(), true);
    expect(lines).toHaveLength(1);
    const report = JSON.parse(lines[0]!) as BenchReport;
    expect(report.results.map((r) => r.name)).toEqual(["decode TinyLLM batch 1", "decode TinyLLM batch 16"]);
    for (const row of report.results) expect(row.tokens_per_s).toBeGreaterThan(0);
  });

  it("covers kernels, training and decoding, each with its least work", () => {
    const names = allRows().map((row) => row.name);
    for (const part of [
      "matmul 1024",
      "softmax",
      "layer_norm",
      "rms_norm",
      "add",
      "attention+backward",
      "train step",
    ])
      expect(
        names.some((name) => name.includes(part)),
        part,
      ).toBe(true);
    for (const row of allRows()) expect(Math.min(row.flops, row.bytes), row.name).toBeGreaterThan(0);
    expect(new Set(names).size).toBe(names.length);
  });

  it("names the rows there are when the filter fits none", async () => {
    await expect(quick("matmull")).rejects.toThrow(/no benchmark's name contains "matmull".*matmul 256/);
  });

  it("does not call a GPU's figures software, and records whole runs only", async () => {
    const adapter = { driver: "hardware", description: "A GPU / 2" } as BenchReport["adapter"];
    const report = { adapter, software: false, quick: false, results: [] } as unknown as BenchReport;
    const result = {
      name: "x",
      by: "kiln",
      ms: 1,
      gflops: 2,
      gb_per_s: 3,
      unit: "GB/s",
      roofline: 0.5,
    } as const;
    expect(`${tableHead(report)}${renderRow(result, report)}`).not.toMatch(/sw|software/);
    const path = await record(report, pathToFileURL(`${folder}/`));
    await record(report, pathToFileURL(`${folder}/`));
    expect(path).toMatch(/hardware-a-gpu-2\.jsonl$/);
    expect(readFileSync(path, "utf8").trim().split("\n")).toHaveLength(2);
    await expect(record({ ...report, quick: true })).rejects.toThrow(/quick run is no measurement/);
  });
});
