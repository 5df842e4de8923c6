import { afterAll, beforeAll, expect, test } from "vitest";
import { compile } from "../core/compile.ts";
import { scope, setDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";

/** Counts pipelines by the way they are made. */
let gpu: WebGpuDevice;
const made = { sync: 0, async: 0 };
beforeAll(async () => {
  gpu = await k.openDevice();
  const { gpu: device } = gpu;
  const [sync, later] = [
    device.createComputePipeline.bind(device),
    device.createComputePipelineAsync.bind(device),
  ];
  device.createComputePipeline = (d) => {
    made.sync++;
    return sync(d);
  };
  device.createComputePipelineAsync = (d) => {
    made.async++;
    return later(d);
  };
});
afterAll(() => setDevice(null));

const step = (x: Tensor) => k.softmax(k.matmul(k.sin(x), x), -1);

test("a prepared step compiles nothing when it runs, and gives what an unprepared one gives", async () => {
  const x = tensor([1, 2, 3, 4], [2, 2]);
  const prepared = compile(step);
  await prepared.prepare(x);
  expect(made.async).toBeGreaterThanOrEqual(3);
  expect(made.sync).toBe(0);
  const { dispatches } = gpu.recorder;
  await prepared.prepare(x);
  expect(gpu.recorder.dispatches).toBe(dispatches);
  const y = scope(() => prepared(x));
  const values = await y.data();
  expect(made.sync).toBe(0);
  const plain = await scope(() => compile(step)(x)).data();
  expect(Array.from(values)).toEqual(Array.from(plain));
});

test("a step may run while it is being prepared", async () => {
  const x = tensor([0.5, 0.25], [1, 2]);
  const other = compile((t: Tensor) => k.sum(k.square(k.cos(t))));
  const warming = other.prepare(x);
  const value = await scope(() => other(x)).item();
  await warming;
  expect(value).toBeCloseTo(Math.cos(0.5) ** 2 + Math.cos(0.25) ** 2, 5);
});
