import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { setDevice } from "../core/device.ts";
import { registeredOps, type Sample } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { runSample, sampleInputs, worstRatio } from "./support/ops_harness.ts";
import { specialsEqualReference } from "./support/special_values.ts";

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

/** What each op does by default on this adapter, in f32 and in f16, against float64. */
describe("the adapter with f16", () => {
  for (const op of registeredOps().values()) {
    const samples = op.samples() as unknown as Sample<unknown>[];
    const sample = samples.find((s) => s.inputs.some((i) => !i.dtype)) ?? samples[0];
    const types = op.f16 === false || !sample.inputs.some((i) => !i.dtype) ? ["f32"] : ["f32", "f16"];
    for (const floatType of types as ("f32" | "f16")[]) {
      it(`${op.name} ${floatType}: ${sample.name}`, async (context) => {
        if (floatType === "f16" && !gpu.profile.f16) return context.skip("no shader-f16");
        const { atol = 1e-5, rtol = 1e-4 } = sample;
        const loose = floatType === "f16" ? [Math.max(atol, 4e-3), Math.max(rtol, 4e-3)] : [atol, rtol];
        const expected = await runSample(
          reference,
          op,
          sampleInputs(reference, op, sample, floatType),
          sample.attrs,
        );
        const actual = await runSample(gpu, op, sampleInputs(gpu, op, sample, floatType), sample.attrs);
        expected.forEach((values, i) => {
          expect(worstRatio(actual[i], values, loose[0], loose[1]), `result ${i}`).toBeLessThanOrEqual(1);
        });
      });
      it(`${op.name} ${floatType}: ${sample.name}: NaN, infinities and signed zeros`, async (context) => {
        if (floatType === "f16" && !gpu.profile.f16) return context.skip("no shader-f16");
        await specialsEqualReference({ reference, gpu }, op, sample, floatType);
      });
    }
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
