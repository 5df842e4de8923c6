import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, type TestContext, vi } from "vitest";
import { setDevice } from "../core/device.ts";
import { type AnyOp, findOp, type MatrixUnits } from "../core/op.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { forwardVariants } from "../kernels/attention/plan.ts";
import { openDevice } from "../kernels/index.ts";
import { planMatrix, suitsMatrix, tuneMatrix } from "../kernels/matmul/matrix.ts";
import {
  describeMatrixUnits,
  type MatrixTrial,
  openMatrixUnits,
  tryKernels,
} from "../kernels/matrix_units/trials.ts";
import { gpuProfile, meta, realShapes } from "./support/null_backend.ts";

/** What stands between kernels for matrix units and their use; no adapter with such units is needed. */
const square = { m: 4, n: 4, k: 4 };
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

/** A product of which a variant `matrix` is on trial. */
function trial(name: string, plan: (call: never) => ReturnType<typeof planMatrix>): MatrixTrial {
  const matmul = findOp("matmul");
  const variants = matmul.variants.map((v) => (v.name === "matrix" ? { ...v, plan } : v));
  const inputs = [{ shape: [9, 16] }, { shape: [16, 12] }].map((input) => ({
    ...input,
    dtype: "f32" as const,
  }));
  return { name, op: { ...matmul, variants } as AnyOp, inputs, attrs: {}, trusted: "plain" };
}

describe("a kernel is refused", () => {
  it("when its numbers are wrong or it does not compile, and the others are not", async (context: TestContext) => {
    if (gpu.profile.subgroupSize < 4) return context.skip("no subgroups of one size");
    const units: MatrixUnits = { dialect: "emulated", shapes: [square], vectors: null, refused: [] };
    gpu.profile.matrix = units;
    const edited = (edit: (defines: Record<string, unknown>, params: Record<string, unknown>) => void) => {
      return (call: never) => {
        const plan = planMatrix(call);
        for (const { defines = {}, params = {} } of plan.passes) edit(defines, params);
        return plan;
      };
    };
    const trials = [
      trial("right", planMatrix),
      trial(
        "wrong numbers",
        edited((_, params) => Object.assign(params, { scale: 1.02 })),
      ),
      trial(
        "not a number",
        edited((_, params) => Object.assign(params, { scale: Number.NaN })),
      ),
      trial(
        "does not compile",
        edited((defines) => Object.assign(defines, { PANEL: "not WGSL" })),
      ),
      trial("right again", planMatrix),
    ];
    await tryKernels(gpu, units, trials);
    expect(units.refused).toEqual(["wrong numbers", "not a number", "does not compile"]);
    expect(describeMatrixUnits(units)).toContain("not used: wrong numbers, not a number, does not compile");
    gpu.profile.matrix = null;
    // What went wrong meanwhile is nobody else's error.
    await gpu.sync();
  });

  it("and is not chosen from then on", () => {
    const units: MatrixUnits = { dialect: "template", vectors: null, shapes: realShapes, refused: [] };
    const profile = gpuProfile(units);
    const [a, b] = [meta([512, 512]), meta([1, 512, 2, 64])];
    const call = { profile, inputs: [a, a], outputs: [a], attrs: {} };
    const { options } = tuneMatrix(call);
    units.refused.push(`matmul ${options[0]}`);
    expect(tuneMatrix(call).options).not.toContain(options[0]);
    for (const option of options) units.refused.push(`matmul ${option}`);
    expect(suitsMatrix(call)).toBe(false);
    const attrs = { causal: true, scale: 1, masked: false, segmented: false };
    const attended = { profile, inputs: [b, b, b], outputs: [b, meta([1, 512, 2], "f32")], attrs };
    expect(forwardVariants.find((v) => v.when!(attended))!.name).toBe("matrix");
    units.refused.push("attention 64");
    expect(forwardVariants.find((v) => v.when!(attended))!.name).toBe("tiles");
  });
});

describe("the verdict on matrix units", () => {
  it("is kept in the cache: found out once for an adapter, read from then on", async (context) => {
    if (gpu.matrixShapes.length > 0) return context.skip("this adapter has matrix units");
    const cache = mkdtempSync(path.join(tmpdir(), "kiln-verdict-"));
    vi.stubEnv("KILN_CACHE", cache);
    const { matrixShapes: own, profile } = gpu;
    const modules = vi.spyOn(gpu.gpu, "createShaderModule");
    try {
      // An adapter that lists shapes and cannot compile the extension: probed, and found wanting.
      gpu.matrixShapes = realShapes;
      await openMatrixUnits(gpu);
      expect(profile.matrix).toBeNull();
      expect(modules).toHaveBeenCalled();
      modules.mockClear();
      await openMatrixUnits(gpu);
      expect(profile.matrix).toBeNull();
      expect(modules).not.toHaveBeenCalled();
      // What was found is what is used, and other shapes are another adapter.
      const [file] = readdirSync(path.join(cache, "matrix"));
      const at = path.join(cache, "matrix", file!);
      const kept = JSON.parse(readFileSync(at, "utf8"));
      const units = { dialect: "template", shapes: realShapes, vectors: null, refused: ["attention 64"] };
      writeFileSync(at, JSON.stringify({ ...kept, value: { units } }));
      await openMatrixUnits(gpu);
      expect(profile.matrix).toEqual(units);
      gpu.matrixShapes = [square];
      await openMatrixUnits(gpu);
      expect(profile.matrix).toBeNull();
      expect(modules).toHaveBeenCalled();
    } finally {
      modules.mockRestore();
      vi.unstubAllEnvs();
      gpu.matrixShapes = own;
      profile.matrix = null;
      rmSync(cache, { recursive: true });
    }
    await gpu.sync();
  });
});
