import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { setDevice } from "../core/device.ts";
import { registeredOps, type Sample } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { runSample, sampleInputs, worstRatio } from "./support/ops_harness.ts";

// On a machine without a GPU the other tests run on an adapter without f16; this file takes the one that has it.
process.env.KILN_ADAPTER = process.env.KILN_F16_ADAPTER ?? process.env.KILN_ADAPTER ?? "auto";

const reference = new ReferenceDevice();
let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
  if (!gpu.profile.f16) console.warn(`f16 is not tested: ${gpu.profile.name} has no shader-f16`);
});
afterAll(() => setDevice(null));

/**
 * What each op does by default in f16, against float64, on the first sample with floats. `npm run test:slow` holds every
 * variant and special value on this adapter, in f32 too.
 */
describe("the adapter with f16", () => {
  for (const op of registeredOps().values()) {
    const samples = op.samples() as unknown as Sample<unknown>[];
    const sample = samples.find((s) => s.inputs.some((i) => !i.dtype));
    if (op.f16 === false || !sample) continue;
    it(`${op.name}: ${sample.name}`, async (context) => {
      if (!gpu.profile.f16) return context.skip("no shader-f16");
      const { atol = 1e-5, rtol = 1e-4 } = sample;
      const run = (device: ReferenceDevice | WebGpuDevice) =>
        runSample(device, op, sampleInputs(device, op, sample, "f16"), sample.attrs);
      const [expected, actual] = [await run(reference), await run(gpu)];
      expected.forEach((values, i) => {
        const ratio = worstRatio(actual[i], values, Math.max(atol, 4e-3), Math.max(rtol, 4e-3));
        expect(ratio, `result ${i}`).toBeLessThanOrEqual(1);
      });
    });
  }
});

/** GPUs without matrix units read f16 heads by these, which no software adapter does by default. */
describe("attention in register tiles", () => {
  for (const name of ["attention", "attention_backward"]) {
    it(`${name} f16`, async (context) => {
      if (!gpu.profile.f16) return context.skip("no shader-f16");
      const op = registeredOps().get(name)!;
      const sample = (op.samples() as unknown as Sample<unknown>[]).find((s) => s.name === "grouped heads")!;
      const run = (device: ReferenceDevice | WebGpuDevice) =>
        runSample(device, op, sampleInputs(device, op, sample, "f16"), sample.attrs);
      gpu.forcedVariant.set(name, "tiles");
      onTestFinished(() => void gpu.forcedVariant.delete(name));
      const [expected, actual] = [await run(reference), await run(gpu)];
      expected.forEach((values, i) => {
        expect(worstRatio(actual[i], values, 2e-3, 2e-3), `result ${i}`).toBeLessThanOrEqual(1);
      });
    });
  }
});
