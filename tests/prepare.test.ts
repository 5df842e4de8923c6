import { afterAll, beforeAll, expect, test } from "vitest";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { CompiledStep } from "../core/webgpu/compiled_step.ts";
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

/** Side by side as on a GPU, one after the other as on a processor. */
test.each(["gpu", "cpu"])("a step prepared as on a %s compiles nothing when it runs", async (kind) => {
  const own = gpu.profile.class;
  Object.assign(gpu.profile, { class: kind });
  Object.assign(made, { sync: 0, async: 0 });
  try {
    // Shapes of its own, so that the other case has left nothing compiled.
    const x =
      kind === "gpu"
        ? tensor([1, 2, 3, 4], [2, 2])
        : tensor(new Float32Array(5 * 3 * 3).fill(0.5), [5, 3, 3]);
    const prepared = compile(step);
    const { dispatches } = gpu.recorder;
    await prepared.prepare(x);
    expect(kind === "gpu" ? made.async : made.sync).toBeGreaterThanOrEqual(1);
    expect(kind === "gpu" ? made.sync : made.async).toBe(0);
    expect(gpu.recorder.dispatches).toBe(dispatches);
    const { sync } = made;
    const values = await scope(() => prepared(x)).data();
    expect(made.sync).toBe(sync);
    const plain = await scope(() => compile(step)(x)).data();
    expect(Array.from(values)).toEqual(Array.from(plain));
  } finally {
    Object.assign(gpu.profile, { class: own });
  }
});

test("a step may run while it is being prepared", async () => {
  const x = tensor([0.5, 0.25], [1, 2]);
  const other = compile((t: Tensor) => k.sum(k.square(k.cos(t))));
  const warming = other.prepare(x);
  const value = await scope(() => other(x)).item();
  await warming;
  expect(value).toBeCloseTo(Math.cos(0.5) ** 2 + Math.cos(0.25) ** 2, 5);
});

test("what a dropped plan has not submitted yet does not write over a new tensor", async () => {
  const values = [1, 2, 3, 4];
  const plan = new CompiledStep(gpu, (t: Tensor) => k.softmax(k.matmul(k.sin(t), t), -1), [
    tensor(values, [2, 2]),
  ]);
  scope(() => void plan.replay([tensor(values, [2, 2])]));
  plan.discard();
  const fresh = Array.from({ length: 8 }, (_, i) => tensor(values.map((v) => v + i)));
  for (const [i, t] of fresh.entries()) expect(Array.from(await t.data())).toEqual(values.map((v) => v + i));
});
