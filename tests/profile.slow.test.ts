import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { flopsOf } from "../bench/costs.ts";
import { type ProfileReport, profile } from "../bench/profile.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { ones, type Tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { oneAfterAnother, timeDispatches } from "../core/webgpu/timestamps.ts";
import { add, attention, matmul, openDevice, softmax } from "../kernels/index.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-profile-"));
let device: WebGpuDevice;
beforeAll(async () => {
  device = await openDevice();
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

/** What every profile must hold to. */
function checkReport(report: ProfileReport): void {
  const { rows, span_ms, dispatches } = report;
  expect(rows.at(-1)!.label).toBe("between dispatches");
  expect(rows.reduce((sum, row) => sum + row.ms, 0)).toBeCloseTo(span_ms, 6);
  expect(rows.reduce((sum, row) => sum + row.share, 0)).toBeCloseTo(1, 6);
  const kernels = rows.slice(0, -1);
  expect(kernels.reduce((sum, row) => sum + row.calls, 0)).toBe(dispatches);
  expect(kernels.map((row) => row.ms)).toEqual(kernels.map((row) => row.ms).sort((a, b) => b - a));
  // Dispatches follow one another: their times can neither be negative nor run over the step.
  for (const row of kernels) expect(row.ms).toBeGreaterThanOrEqual(0);
  expect(kernels.reduce((sum, row) => sum + row.share, 0)).toBeGreaterThan(0);
}

describe("profile", () => {
  it("shows a decode step kernel by kernel, and writes a trace with an event for each dispatch", async () => {
    const trace = join(folder, "decode.json");
    const lines: string[] = [];
    const report = await profile(device, "decode", { trace, steps: 2, write: (line) => lines.push(line) });
    checkReport(report);
    expect(lines.some((line) => line.includes("| fused_linear/"))).toBe(true);
    // A token's row of the table, read and written: not the table.
    const events = JSON.parse(readFileSync(trace, "utf8")).traceEvents as {
      name: string;
      args: { bytes: number };
    }[];
    const looked = events.find(({ name }) => name.startsWith("embedding/"))!;
    expect(looked.args.bytes).toBe(2 * 4 * 128);
    expect(lines[0]).toContain(`${report.dispatches} dispatches`);
    expect(lines.join("\n").includes("(sw)")).toBe(report.software);
    const { traceEvents } = JSON.parse(readFileSync(trace, "utf8")) as {
      traceEvents: { ph: string; ts: number; dur: number; name: string }[];
    };
    expect(traceEvents).toHaveLength(report.dispatches);
    for (const { ph, ts, dur } of traceEvents) {
      expect(ph).toBe("X");
      expect(Math.min(ts, dur)).toBeGreaterThanOrEqual(0);
    }
    const sum = traceEvents.reduce((all, { dur }) => all + dur, 0) / 1e3;
    const kernels = report.rows.slice(0, -1).reduce((all, row) => all + row.ms, 0);
    expect(sum).toBeCloseTo(kernels, 3);
  });

  it("shows a training step as JSON, optimizer and backward pass included", async () => {
    const lines: string[] = [];
    await profile(device, "train", { json: true, steps: 1, write: (line) => lines.push(line) });
    expect(lines).toHaveLength(1);
    const report = JSON.parse(lines[0]) as ProfileReport;
    checkReport(report);
    for (const part of ["matmul/", "attention_backward/", "adam/", "global_norm/"])
      expect(
        report.rows.some(({ label }) => label.startsWith(part)),
        part,
      ).toBe(true);
    const product = report.rows.find(({ label }) => label.startsWith("matmul/"))!;
    expect(product.gflops).toBeGreaterThan(0);
    expect(product.limit).toBeGreaterThan(0);
  });

  it("says in one line that an adapter has no timestamp queries", async () => {
    const without = { gpu: { features: new Set() } } as unknown as WebGpuDevice;
    await expect(profile(without, "train")).rejects.toThrow(/^this adapter has no timestamp queries[^\n]*$/);
  });

  it("says in one line where the trace cannot go", async () => {
    const trace = join(folder, "nowhere", "trace.json");
    await expect(profile(device, "decode", { trace, steps: 1, write: () => {} })).rejects.toThrow(
      /^the trace cannot be written: [^\n]*nowhere[^\n]*$/,
    );
  });
});

describe("timing dispatches", () => {
  it("times eager and compiled work in order and changes no bits", async () => {
    const x = ones([64, 64]);
    const body = (t: Tensor) => softmax(add(matmul(t, t), t));
    const plain = Array.from(await body(x).data());
    const step = compile(body);
    step(x);
    for (const run of [body, step]) {
      let result = x;
      const timed = await timeDispatches(device, async () => {
        result = run(x);
      });
      expect(timed.map((d) => d.op)[0]).toBe("matmul");
      expect(timed.map((d) => d.op)).toContain("softmax");
      timed.forEach((d, i) => {
        expect(d.end).toBeGreaterThanOrEqual(d.start);
        if (i > 0) expect(d.start).toBeGreaterThanOrEqual(timed[i - 1].start);
      });
      expect(Array.from(await result.data())).toEqual(plain);
    }
    expect(await timeDispatches(device, async () => {})).toEqual([]);
    const before = device.recorder.submits;
    add(x, x);
    add(x, x);
    await device.sync();
    expect(device.recorder.submits - before, "passes are shared again").toBe(1);
  });

  it("lets a pass begin when the one before it has ended, whenever its begin was stamped", () => {
    // The second is stamped while the first runs; the third after a pause; the fourth was never stamped.
    const stamps = BigUint64Array.from([1000n, 1500n, 1100n, 1700n, 1900n, 1950n, 0n, 0n]);
    expect(oneAfterAnother(stamps)).toEqual([
      { start: 0, end: 500 },
      { start: 500, end: 700 },
      { start: 900, end: 950 },
      { start: 950, end: 950 },
    ]);
  });

  it("reads more query sets than one", async () => {
    const x = ones([4]);
    const timed = await timeDispatches(device, async () => {
      for (let i = 0; i < 2100; i++) add(x, x);
    });
    expect(timed).toHaveLength(2100);
    expect(timed[2099].end).toBeGreaterThan(timed[2047].end);
  });

  it("knows the operations of products and of causal attention", async () => {
    const q = ones([2, 3, 16, 8]);
    const timed = await timeDispatches(device, async () => {
      matmul(ones([5, 7]), ones([7, 3]));
      attention(q, q, q, { causal: true });
    });
    const flops = (op: string) =>
      timed.filter((d) => d.op === op).reduce((sum, d) => sum + (flopsOf(d) ?? 0), 0);
    expect(flops("matmul")).toBe(2 * 5 * 7 * 3);
    expect(flops("attention")).toBe(4 * 2 * 3 * 8 * ((16 * 17) / 2));
    const product = timed.find((d) => d.op === "matmul")!;
    expect(product.bytes).toBe(4 * (35 + 21 + 15));
  });
});
