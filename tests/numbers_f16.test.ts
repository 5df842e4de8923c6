import { afterAll, beforeAll, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";

// On a machine without a GPU the other tests run on an adapter without f16; this file takes the one that has it.
process.env.KILN_ADAPTER = process.env.KILN_F16_ADAPTER ?? process.env.KILN_ADAPTER ?? "auto";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const list = async (t: Tensor) => Array.from(await t.data());

it("NaN in f16 differs from all, is true, is kept by clamp, and becomes 0 as an integer", async (context) => {
  if (!gpu.profile.f16) return context.skip("no shader-f16");
  const x = tensor([Number.NaN, 1, -0, Number.POSITIVE_INFINITY], [4], "f16");
  expect(await list(k.ne(x, x))).toEqual([1, 0, 0, 0]);
  expect(await list(k.eq(x, x))).toEqual([0, 1, 1, 1]);
  expect(await list(k.le(x, 1))).toEqual([0, 1, 1, 0]);
  expect(await list(k.cast(x, "bool"))).toEqual([1, 1, 0, 1]);
  expect(await list(k.clamp(x, 0.5, 2))).toEqual([Number.NaN, 1, 0.5, 2]);
  expect(await list(k.cast(x, "i32"))).toEqual([0, 1, 0, 2147483647]);
  expect(() => tensor([65_520], [1], "f16")).toThrow("value 0 is 65520, outside of f16");
});
