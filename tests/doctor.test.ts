import { afterEach, describe, expect, it, vi } from "vitest";
import { type DoctorReport, doctor, renderDoctor } from "../bench/doctor.ts";

afterEach(() => vi.unstubAllEnvs());

describe("doctor", () => {
  it("describes the adapter, checks ops against the reference and measures speeds", async () => {
    const { ok, report } = await doctor();
    expect(report.problem).toBeUndefined();
    expect(report.checks!.map((c) => c.name)).toEqual(
      expect.arrayContaining(["matmul", "softmax", "attention, causal"]),
    );
    for (const check of report.checks!) expect(check.ok, check.name).toBe(true);
    expect(ok).toBe(true);
    for (const speed of Object.values(report.speed!)) expect(speed).toBeGreaterThan(0);
    expect(report.limits!.maxStorageBufferBindingSize).toBeGreaterThanOrEqual(2 ** 27);
    const text = renderDoctor(report);
    for (const word of ["toggles", "features", "limits", "matrix configurations", "GFLOP/s", "all well"])
      expect(text).toContain(word);
    expect(text.includes("software adapter)")).toBe(report.adapter!.software);
    expect(JSON.parse(JSON.stringify(report))).toEqual(report);
  });

  it("says what to install where there is no adapter", async () => {
    vi.stubEnv("KILN_ADAPTER", "none");
    const { ok, report } = await doctor();
    expect(ok).toBe(false);
    expect(report.problem).toMatch(/No WebGPU adapter was found/);
    expect(renderDoctor(report)).toMatch(/problem: .*(install|setup:gpu|macOS)/);
  });

  it("names wrong results in the text", () => {
    const check = { name: "matmul", error: Number.NaN, tolerance: 1e-4, ok: false };
    const report: DoctorReport = { platform: "linux x64", node: "v20", checks: [check] };
    expect(renderDoctor(report)).toMatch(
      /matmul .*WRONG.*WRONG RESULTS in matmul: update the graphics driver/s,
    );
  });
});
