import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { findOp } from "../core/op.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { tryKernels } from "../kernels/matrix_units/trials.ts";
import { meta } from "./support/null_backend.ts";

// On a machine without a GPU the other tests run on an adapter without f16; this file takes the one that has it.
process.env.KILN_ADAPTER = process.env.KILN_F16_ADAPTER ?? process.env.KILN_ADAPTER ?? "auto";

let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
  if (!gpu.profile.f16) console.warn(`f16 is not tested: ${gpu.profile.name} has no shader-f16`);
});
afterAll(() => setDevice(null));

/** The rest of the kernels is tested in f32 (matrix_units.test.ts); here operands, panels and weights are f16. */
describe("emulated matrix units in f16", () => {
  it("multiply and attend as kernels without them", async (context) => {
    const { f16, subgroupSize } = gpu.profile;
    if (!f16 || subgroupSize < 4) return context.skip("no f16, or no subgroups of one size");
    const shape = { m: 4, n: 4, k: 4 };
    const units = { dialect: "emulated", shapes: [shape], vectors: null, refused: [] as string[] } as const;
    gpu.profile.matrix = units as never;
    const query = { shape: [1, 2, 11, 8] };
    const attrs = { causal: true, scale: 0.3, masked: false, segmented: false };
    const [matmul, attention] = [findOp("matmul"), findOp("attention")];
    const product = { op: matmul, inputs: [{ shape: [9, 20] }, { shape: [20, 12] }], attrs: {} };
    const three = [query, query, query];
    // A trial of what no tile fits would pass as well.
    const call = { profile: gpu.profile, inputs: three.map(({ shape }) => meta(shape)), outputs: [], attrs };
    expect(attention.variants.find((v) => v.name === "matrix")!.when!(call as never)).toBe(true);
    await tryKernels(gpu, units as never, [
      { name: "product", ...product, trusted: "plain", option: "8x8x8 by 1" },
      { name: "attention", op: attention, inputs: three, attrs, trusted: "plain" },
    ]);
    expect(units.refused).toEqual([]);
  });
});
