import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import {
  crossEntropy,
  embedding,
  gather,
  indexSelect,
  linearCrossEntropy,
  openDevice,
  scatterAdd,
} from "../kernels/index.ts";

let gpu: Device;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const reference = new ReferenceDevice();
const nan = Number.NaN;
const ids = (...values: number[]) => tensor(values, [values.length], "i32");
const table = () => tensor([1, 2, 3, 4, 5, 6], [3, 2]).requireGrad();

/** y and the derivative of its sum by x. */
async function both(y: Tensor, x: Tensor): Promise<number[][]> {
  const ones = tensor(new Array(y.size).fill(1), y.shape);
  const [dx] = grads([y], [x], { cotangents: [ones] });
  return [Array.from(await y.data()), Array.from(await dx!.data())];
}

/** Ids that only the device knows cannot be refused at the call: they make what they touch NaN, forward and backward. */
const cases: Record<string, () => Promise<void>> = {
  async embedding() {
    for (const wrong of [3, -1, 2 ** 31 - 1]) {
      const weight = table();
      const [y, dweight] = await both(embedding(ids(2, wrong), weight), weight);
      expect(y).toEqual([5, 6, nan, nan]);
      expect(dweight).toEqual(new Array(6).fill(nan));
    }
  },
  async index_select() {
    const x = table();
    const [y, dx] = await both(indexSelect(x, 0, ids(0, 3)), x);
    expect(y).toEqual([1, 2, nan, nan]);
    expect(dx).toEqual(new Array(6).fill(nan));
  },
  async gather() {
    const x = table();
    const [y, dx] = await both(gather(x, 1, tensor([1, 0, 2, 0, 1, 1], [3, 2], "i32")), x);
    expect(y).toEqual([2, 1, nan, 3, 6, 6]);
    expect(dx).toEqual([1, 1, nan, nan, 0, 2]);
  },
  async scatter_add() {
    const src = tensor([1, 1, 1], [3, 1]).requireGrad();
    const y = scatterAdd(table(), 1, tensor([1, -1, 0], [3, 1], "i32"), src);
    const [values, dsrc] = await both(y, src);
    expect(values).toEqual([1, 3, nan, nan, 6, 6]);
    expect(dsrc).toEqual([1, nan, 1]);
  },
  async cross_entropy() {
    for (const wrong of [4, 9, -1]) {
      const logits = zeros([2, 4]).requireGrad();
      const loss = crossEntropy(logits, ids(wrong, 1), { reduction: "none" });
      const [y, dlogits] = await both(loss, logits);
      expect(y![0]).toBe(nan);
      expect(y![1]).toBeCloseTo(Math.log(4), 5);
      expect(dlogits).toEqual([nan, nan, nan, nan, 0.25, -0.75, 0.25, 0.25]);
    }
    const logits = zeros([1, 4]).requireGrad();
    expect(await both(crossEntropy(logits, ids(9)), logits)).toEqual([[nan], [nan, nan, nan, nan]]);
  },
  async linear_cross_entropy() {
    const hidden = tensor([1, 2, 3, 4], [2, 2]).requireGrad();
    const weight = table();
    const { loss } = linearCrossEntropy(hidden, weight, ids(3, 1));
    const [dhidden, dweight] = grads(loss, [hidden, weight]);
    expect(Array.from(await loss.data())).toEqual([nan]);
    expect(Array.from(await dhidden!.data()).map(Number.isNaN)).toEqual([true, true, false, false]);
    expect(Array.from(await dweight!.data())).toEqual(new Array(6).fill(nan));
  },
};

for (const [where, device] of Object.entries({
  "this adapter": () => gpu,
  "the reference": () => reference,
})) {
  describe(`ids outside their range, on ${where}`, () => {
    for (const [name, run] of Object.entries(cases)) it(name, () => withDevice(device(), run));
  });
}
