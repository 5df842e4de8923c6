import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { numel, type Shape } from "../core/shape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";
import { worstRatio } from "./support/ops_harness.ts";

/**
 * Convolution, pooling and resampling with PyTorch 2.13's numbers (CPU, f32). Each case of torch_windows.json is
 *
 *     inputs = [make(shape, i) for i, shape in enumerate(shapes)]   # make: values() below
 *     y = getattr(torch.nn.functional, snake_case(call))(*inputs, *args)   # an object in args: keywords
 *     grads = torch.autograd.grad((y * make(y.shape, 9)).sum(), inputs)
 */
interface Case {
  call: string;
  shapes: Shape[];
  args: unknown[];
  shape: Shape;
  values: number[];
  grads: number[][];
}

const cases: Case[] = JSON.parse(
  readFileSync(new URL("fixtures/torch_windows.json", import.meta.url), "utf8"),
);
const values = (shape: Shape, seed: number) =>
  Array.from({ length: numel(shape) }, (_, i) => (((i * 37 + seed * 11) % 29) - 14) / 7);
const make = (shape: Shape, seed: number, on: Device) => tensor(values(shape, seed), shape, "f32", on);

const functions = k as unknown as Record<string, (...args: unknown[]) => Tensor>;
const run = ({ call, args }: Case, inputs: Tensor[]) => {
  const optional = call.startsWith("conv") && inputs.length === 2 ? [null] : [];
  return functions[call](...inputs, ...optional, ...args);
};

let gpu: WebGpuDevice;
let reference: Device;
beforeAll(async () => {
  reference = k.openReference();
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

async function close(actual: Tensor, expected: number[], what: string) {
  const ratio = worstRatio(await actual.data(), expected, 2e-5, 1e-5);
  expect(ratio, `${what}: error over tolerance`).toBeLessThanOrEqual(1);
}

describe.each(cases.map((c) => [`${c.call} ${JSON.stringify([c.shapes, ...c.args])}`, c] as const))(
  "%s",
  (_name, test) => {
    const gradientsOf = (inputs: Tensor[], weights: Tensor) => {
      const y = run(test, inputs);
      return [y, ...grads(k.sum(k.mul(y, weights)), inputs)] as Tensor[];
    };

    it("gives PyTorch's values and gradients on each device, also compiled", async () => {
      for (const on of [gpu, reference]) {
        const inputs = test.shapes.map((shape, i) => make(shape, i, on).requireGrad());
        const weights = make(test.shape, 9, on);
        const eager = withDevice(on, () => gradientsOf(inputs, weights));
        expect(eager[0].shape).toEqual(test.shape);
        const step = compile((w: Tensor, ...given: Tensor[]) => gradientsOf(given, w));
        for (const results of [eager, withDevice(on, () => step(weights, ...inputs))])
          for (const [i, expected] of [test.values, ...test.grads].entries())
            await close(results[i], expected, `${on.kind}, result ${i}`);
      }
    });

    it("has a second derivative", async () => {
      // The Hessian of sum(w y^2 / 2) times v by reverse mode twice, against central differences of the gradient.
      const given = test.shapes.map((shape, i) => values(shape, i));
      const gradientAt = (shift: number, createGraph: boolean) =>
        withDevice(reference, () => {
          const inputs = test.shapes.map((shape, i) =>
            tensor(
              given[i].map((v, at) => v + shift * direction(i, at)),
              shape,
            ).requireGrad(),
          );
          const loss = k.sum(k.mul(k.square(run(test, inputs)), make(test.shape, 9, reference)));
          const first = grads(loss, inputs, { createGraph }) as Tensor[];
          const along = first.map((g, i) =>
            k.sum(
              k.mul(
                g,
                tensor(
                  given[i].map((_, at) => direction(i, at)),
                  test.shapes[i],
                ),
              ),
            ),
          );
          const slope = along.reduce((a, b) => k.add(a, b));
          return { slope, inputs };
        });
      const direction = (i: number, at: number) => Math.cos(3 * at + i);
      const { slope, inputs } = gradientAt(0, true);
      const second = withDevice(reference, () => grads(slope, inputs)) as Tensor[];
      let analytic = 0;
      for (const [i, g] of second.entries())
        (await g.data()).forEach((v, at) => {
          analytic += v * direction(i, at);
        });
      const h = 1e-4;
      const [up, down] = [gradientAt(h, false).slope, gradientAt(-h, false).slope];
      const numeric = ((await up.item()) - (await down.item())) / (2 * h);
      expect(Math.abs(analytic - numeric)).toBeLessThan(1e-5 * Math.max(1, Math.abs(numeric)));
    });
  },
);

it("maxPool2dWithIndices gives places in the plane, the first one at ties, and NaN where there is one", async () => {
  for (const on of [gpu, reference]) {
    const x = tensor([1, 3, 3, 0, 2, 1, 0, Number.NaN, 5, 5, 5, 5], [1, 1, 3, 4], "f32", on);
    const { values: y, indices } = k.maxPool2dWithIndices(x, 2, { stride: 1, padding: 1 });
    // torch.nn.functional.max_pool2d(x, 2, 1, 1, return_indices=True)
    expect(Array.from(await indices.data())).toEqual([
      0, 1, 1, 2, 3, 4, 1, 1, 7, 7, 8, 8, 9, 7, 7, 8, 8, 9, 10, 11,
    ]);
    expect(Array.from(await y.data())).toEqual([
      1,
      3,
      3,
      3,
      0,
      2,
      3,
      3,
      Number.NaN,
      Number.NaN,
      5,
      5,
      5,
      Number.NaN,
      Number.NaN,
      5,
      5,
      5,
      5,
      5,
    ]);
  }
});

it("says what does not fit", () => {
  const x = make([2, 3, 5, 5], 0, gpu);
  const weight = make([4, 3, 3, 3], 1, gpu);
  const errors: [() => unknown, string][] = [
    [
      () => k.conv2d(x, make([4, 2, 3, 3], 1, gpu)),
      "conv2d(f32[2, 3, 5, 5], f32[4, 2, 3, 3]): expected x [N, in, ...]",
    ],
    [() => k.conv2d(x, weight, null, { padding: "same", stride: 2 }), '"same" needs stride 1'],
    [() => k.conv2d(x, weight, null, { stride: 0 }), "conv2d: stride is 0; expected a whole number from 1"],
    [() => k.conv2d(x, make([4, 3, 7, 7], 1, gpu)), "axis 2 has 5 elements; a window spans 7"],
    [() => k.conv2d(x, weight, null, { stride: [1, 2, 3] }), "conv2d: stride has 3 numbers"],
    [() => k.maxPool2d(x, 2, { padding: 2 }), "padding 2 is more than half of the kernel size 2"],
    [() => k.maxPool2d(make([5], 0, gpu), 2), "expected a float tensor of rank 4, or 3 without a batch"],
    [() => k.fold(make([2, 12, 11], 0, gpu), [5, 6], [2, 3]), "expected [N, a multiple of 6, 4 x 4 windows]"],
    [() => k.interpolate(x, { size: 3, scaleFactor: 2 }), "give size or scaleFactor, and not both"],
    [() => k.interpolate(x, { size: 3, mode: "linear" }), 'mode "linear" takes'],
  ];
  for (const [body, message] of errors) expect(body).toThrow(message);
});
