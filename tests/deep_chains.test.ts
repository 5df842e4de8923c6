import { afterAll, beforeAll, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { apply, type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { fused } from "../kernels/elementwise/fuse.ts";
import * as k from "../kernels/index.ts";

// However many elementwise calls follow each other, a compiled step runs them: kernels end before parsers of WGSL do.
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const values = async (t: Tensor | null) => Array.from(await t!.data());
const repeat = (times: number, body: (t: Tensor) => Tensor) => (t: Tensor) => {
  let out = t;
  for (let i = 0; i < times; i++) out = body(out);
  return out;
};

it.each<[string, number, (t: Tensor) => Tensor, (v: number) => number]>([
  ["sin(x + 0.1)", 64, (t) => k.sin(k.add(t, 0.1)), (v) => Math.sin(v + 0.1)],
  ["abs(-x)", 300, (t) => k.abs(k.neg(t)), Math.abs],
  ["x + 0.25 where x > 0.5, else x / 2", 150, halve, (v) => (v > 0.5 ? v + 0.25 : v * 0.5)],
  ["(x * x + x) / 2", 150, (t) => k.mul(k.add(k.mul(t, t), t), 0.5), (v) => (v * v + v) * 0.5],
])("%s, %i times over, compiles to few kernels and the right values", async (_, times, body, f) => {
  const x = tensor([-0.75, 0, 0.5, 0.875, 1]);
  const chain = repeat(times, body);
  const step = compile(chain);
  const counted = (run: (t: Tensor) => Tensor) => {
    const before = gpu.recorder.dispatches;
    const y = scope(() => run(x));
    return { y, dispatches: gpu.recorder.dispatches - before };
  };
  const compiled = counted(step);
  expect(compiled.dispatches).toBeLessThan(counted(chain).dispatches / 3);
  const found = await values(compiled.y);
  for (const [i, start] of [-0.75, 0, 0.5, 0.875, 1].entries()) {
    let expected = start;
    for (let n = 0; n < times; n++) expected = f(expected);
    expect(found[i]).toBeCloseTo(expected, 4);
  }
});

function halve(t: Tensor): Tensor {
  return k.where(k.gt(t, 0.5), k.add(t, 0.25), k.mul(t, 0.5));
}

it("a formula may be deeper than parsers of WGSL are", async () => {
  const expr = `${"tanh((0.5 + ".repeat(150)}x0${"))".repeat(150)}`;
  const attrs = { expr, scalars: [], dtype: "f32", compute: "f32" } as const;
  const x = tensor([0.25]).requireGrad();
  const y = apply(fused, [x], attrs)[0];
  let expected = 0.25;
  for (let i = 0; i < 150; i++) expected = Math.tanh(0.5 + expected);
  expect((await values(y))[0]).toBeCloseTo(expected, 5);
});

it("thousands of recorded calls have a gradient, eagerly and compiled", async () => {
  const x = tensor([1, 2]).requireGrad();
  const step = (calls: number) => (t: Tensor) =>
    grads(k.sum(k.square(repeat(calls, (u) => k.add(u, 1))(t))), [t])[0];
  expect(await values(scope(() => step(10_000)(x)))).toEqual([20_002, 20_004]);
  expect(await values(compile(step(2000))(x))).toEqual([4002, 4004]);
});
