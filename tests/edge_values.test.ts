import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import {
  add,
  indexSelect,
  layerNorm,
  linearCrossEntropy,
  logsumexp,
  maximum,
  minimum,
  openDevice,
  pow,
  prod,
  square,
  sum,
  topk,
} from "../kernels/index.ts";

// What random programs beside PyTorch 2.13 (CPU) found; its numbers are the expected ones.

let gpu: Device;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const nan = Number.NaN;
const inf = Number.POSITIVE_INFINITY;
const reference = new ReferenceDevice();
const devices = { "this adapter": () => gpu, "the reference": () => reference };

/** Values that `make` gives on a device, rounded to f32. */
const on = async (device: Device, make: () => readonly (Tensor | null)[]) =>
  Promise.all(withDevice(device, make).map(async (t) => t && [...Float32Array.from(await t.data())]));

describe.each(Object.entries(devices))("on %s", (_, device) => {
  it("1 to any power, and any number to the power 0, is 1", async () => {
    const found = await on(device(), () => [
      pow(tensor([1, 1, 1, nan, -1, nan]), tensor([nan, inf, -inf, 0, nan, 1])),
      pow(1, tensor([nan, 2])),
    ]);
    expect(found).toEqual([
      [1, 1, 1, 1, nan, nan],
      [1, 1],
    ]);
  });

  it("the derivative of 0^b by b is -infinity where b is negative", async () => {
    const found = await on(device(), () => {
      const b = tensor([-2, 0, 2]).requireGrad();
      return grads(sum(pow(tensor([0, 0, 0]), b)), [b]);
    });
    expect(found[0]).toEqual([-inf, 0, 0]);
  });

  it.each([
    [maximum, [1, 1, 0.5, 0], [1, 1, 0.5, 1]],
    [minimum, [1, 1, 0.5, 1], [1, 1, 0.5, 0]],
  ])("a NaN does not take the gradient of either argument away", async (op, da, db) => {
    const found = await on(device(), () => {
      const a = tensor([nan, 1, 2, 2]).requireGrad();
      const b = tensor([0, nan, 2, 3]).requireGrad();
      return grads(sum(op(a, b)), [a, b]);
    });
    expect(found).toEqual([da, db]);
  });

  it.each([
    [
      [0, -100, 1, -3, 88],
      [26400, 0, 0, 0, 0],
      [17636, -264, 26400, -8800, 300],
    ],
    [
      [0, -100, 0, -3],
      [0, 0, 0, 0],
      [300, 0, 300, 0],
    ],
    [
      [2, 3, 4],
      [12, 8, 6],
      [7, 6, 5],
    ],
  ])("prod of %j has derivatives of the second order", async (values, first, second) => {
    const found = await on(device(), () => {
      const x = tensor(values).requireGrad();
      const [g] = grads(prod(x), [x], { createGraph: true });
      return [g!, ...grads(sum(g!), [x])];
    });
    expect(found.map((list) => list!.map((v) => v + 0))).toEqual([first, second]);
  });

  it("an infinite product has the products of the others as its gradient", async () => {
    const found = await on(device(), () => {
      const x = tensor([-inf, 1, -3]).requireGrad();
      return grads(prod(x), [x]);
    });
    expect(found[0]).toEqual([-3, inf, -inf]);
  });

  it("logsumexp of integers does not wrap around", async () => {
    const found = await on(device(), () => [logsumexp(tensor([3, 3, 4], [3], "u32"))]);
    expect(found[0]![0]).toBeCloseTo(4.551444, 5);
  });

  it("indexSelect and topk take what is no float, and no axis", async () => {
    const found = await on(device(), () => [
      indexSelect(
        tensor(
          [
            [1, 2, 3],
            [4, 5, 16777217],
          ],
          undefined,
          "i32",
        ),
        1,
        tensor([2, 0], [2], "i32"),
      ),
    ]);
    expect(found[0]).toEqual([3, 1, 16777217, 4].map(Math.fround));
    expect(() => withDevice(device(), () => topk(tensor(3), 0))).toThrow(/topk: k = 0/);
  });

  it("the loss of no tokens is 0, and so are its gradients", async () => {
    const found = await on(device(), () => {
      const hidden = zeros([0, 2]).requireGrad();
      const weight = tensor([1, 2, 3, 4, 5, 7], [3, 2]).requireGrad();
      const { loss, count } = linearCrossEntropy(hidden, weight, zeros([0], "i32"));
      return [loss, count, ...grads(loss, [hidden, weight])];
    });
    expect(found).toEqual([[0], [0], [], [0, 0, 0, 0, 0, 0]]);
  });
});

it("layer_norm of a row whose squares overflow is no finite multiple of it", async () => {
  const found = await on(gpu, () => {
    const x = tensor([-5e16, 5.5e29, -1.5e30, 1, 2, 3, 2e29, 0, 7]).requireGrad();
    const y = layerNorm(x, tensor(new Array(9).fill(1)), zeros([9]));
    return [y, ...grads(sum(square(y)), [x])];
  });
  for (const v of found.flat()) expect(Number.isNaN(v) || v === 0).toBe(true);
});

it("a compiled step sees that a tensor it only returns was frozen", () => {
  const kept = tensor([5, 6]).requireGrad();
  const step = compile((x: Tensor) => ({ moved: add(x, 1), kept }));
  expect(step(tensor([1])).kept.requiresGrad).toBe(true);
  kept.requiresGrad = false;
  expect(step(tensor([1])).kept.requiresGrad).toBe(false);
});
