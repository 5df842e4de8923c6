import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import {
  amax,
  amin,
  argmax,
  argmin,
  countNonzero,
  crossEntropy,
  cumprod,
  cumsum,
  layerNorm,
  linearCrossEntropy,
  logSoftmax,
  logsumexp,
  mean,
  median,
  norm,
  openDevice,
  prod,
  reshape,
  rmsNorm,
  softmax,
  sort,
  std,
  sum,
  topk,
  variance,
} from "../kernels/index.ts";

let gpu: Device;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const nan = Number.NaN;
const inf = Number.POSITIVE_INFINITY;
const reference = new ReferenceDevice();
const devices = { "this adapter": () => gpu, "the reference": () => reference };

const rows = {
  "a NaN": [1, nan, 2],
  "+inf": [1, inf, 2],
  "-inf": [1, -inf, 2],
  "only -inf": [-inf, -inf, -inf],
  "both infinities": [inf, -inf, 2],
  "all three": [inf, nan, -inf],
} as const;
type Row = keyof typeof rows;

/** What PyTorch 2.13 (CPU, f32) gives for each row, in this order. */
const torch: Record<string, readonly (number | readonly number[])[]> = {
  amax: [nan, inf, 2, -inf, inf, nan],
  amin: [nan, 1, -inf, -inf, -inf, nan],
  argmax: [1, 1, 2, 0, 0, 1],
  argmin: [1, 0, 1, 0, 1, 1],
  sum: [nan, inf, -inf, -inf, nan, nan],
  mean: [nan, inf, -inf, -inf, nan, nan],
  prod: [nan, inf, -inf, -inf, -inf, nan],
  var: [nan, nan, nan, nan, nan, nan],
  cumsum: [
    [1, nan, nan],
    [1, inf, inf],
    [1, -inf, -inf],
    [-inf, -inf, -inf],
    [inf, nan, nan],
    [inf, nan, nan],
  ],
  cumprod: [
    [1, nan, nan],
    [1, inf, inf],
    [1, -inf, -inf],
    [-inf, inf, -inf],
    [inf, -inf, -inf],
    [inf, nan, nan],
  ],
  std: [nan, nan, nan, nan, nan, nan],
  norm: [nan, inf, inf, inf, inf, nan],
  "norm, largest": [nan, inf, inf, inf, inf, nan],
  "norm, smallest": [nan, 1, 1, inf, 2, nan],
  median: [nan, 2, 1, -inf, 2, nan],
  countNonzero: [3, 3, 3, 3, 3, 3],
  logsumexp: [nan, inf, 2.3132617, -inf, inf, nan],
  softmax: [nan, nan, [0.26894143, 0, 0.731058598], nan, nan, nan],
  log_softmax: [nan, nan, [-1.3132617, -inf, -0.31326166], nan, nan, nan],
  sort: [
    [1, 2, nan],
    [1, 2, inf],
    [-inf, 1, 2],
    [-inf, -inf, -inf],
    [-inf, 2, inf],
    [-inf, inf, nan],
  ],
  "sort, indices": [
    [0, 2, 1],
    [0, 2, 1],
    [1, 0, 2],
    [0, 1, 2],
    [1, 2, 0],
    [2, 0, 1],
  ],
  "sort, descending": [
    [nan, 2, 1],
    [inf, 2, 1],
    [2, 1, -inf],
    [-inf, -inf, -inf],
    [inf, 2, -inf],
    [nan, inf, -inf],
  ],
  "topk, indices": [
    [1, 2],
    [1, 2],
    [2, 0],
    [0, 1],
    [0, 2],
    [1, 0],
  ],
  "cross_entropy 0": [nan, nan, 1.3132617, nan, nan, nan],
  "cross_entropy 1": [nan, nan, inf, nan, nan, nan],
  "cross_entropy 0, smoothed": [nan, nan, inf, nan, nan, nan],
  "linear_cross_entropy 0": [nan, nan, 1.3132617, nan, nan, nan],
  rms_norm: [nan, [0, nan, 0], [0, nan, 0], nan, [nan, nan, 0], nan],
  layer_norm: [nan, nan, nan, nan, nan, nan],
};

const logits = (x: Tensor) => reshape(x, [1, 3]);
const target = (label: number, x: Tensor) => tensor([label], [1], "i32", x.device);
const weights = (x: Tensor, value: number) => tensor([value, value, value], [3], "f32", x.device);

const ours: Record<string, (x: Tensor) => Tensor> = {
  amax,
  amin,
  argmax,
  argmin,
  sum,
  mean,
  prod,
  var: (x) => variance(x),
  cumsum: (x) => cumsum(x, 0),
  cumprod: (x) => cumprod(x, 0),
  std: (x) => std(x),
  norm: (x) => norm(x),
  "norm, largest": (x) => norm(x, inf),
  "norm, smallest": (x) => norm(x, -inf),
  median: (x) => median(x),
  countNonzero: (x) => countNonzero(x),
  logsumexp,
  softmax,
  log_softmax: logSoftmax,
  sort: (x) => sort(x).values,
  "sort, indices": (x) => sort(x).indices,
  "sort, descending": (x) => sort(x, 0, true).values,
  "topk, indices": (x) => topk(x, 2).indices,
  "cross_entropy 0": (x) => crossEntropy(logits(x), target(0, x)),
  "cross_entropy 1": (x) => crossEntropy(logits(x), target(1, x)),
  "cross_entropy 0, smoothed": (x) => crossEntropy(logits(x), target(0, x), { labelSmoothing: 0.1 }),
  // A head that passes the row on would spread NaN by 0 * NaN; the row is in the weights instead.
  "linear_cross_entropy 0": (x) => {
    const hidden = tensor([1], [1, 1], "f32", x.device);
    return linearCrossEntropy(hidden, reshape(x, [3, 1]), target(0, x)).loss;
  },
  rms_norm: (x) => rmsNorm(x, weights(x, 1), 1e-6),
  layer_norm: (x) => layerNorm(x, weights(x, 1), weights(x, 0)),
};

/** Derivatives of sum(f(x) * (1, 2, 3)), or of f(x) where it is a number. */
const torchGradients: Record<string, readonly (number | readonly number[])[]> = {
  amax: [nan, [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0], nan],
  amin: [nan, [1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0], nan],
  std: [nan, nan, nan, nan, nan, nan],
  norm: [nan, [0, nan, 0], [0, nan, 0], nan, [nan, nan, 0], nan],
  softmax: [nan, nan, [-0.39322388, 0, 0.39322388], nan, nan, nan],
  log_softmax: [nan, nan, [-0.61364859, 2, -1.38635159], nan, nan, nan],
  logsumexp: [nan, [0, nan, 0], [0.26894143, 0, 0.73105854], nan, [nan, 0, 0], nan],
  "cross_entropy 0": [nan, nan, [-0.73105854, 0, 0.73105854], nan, nan, nan],
  "cross_entropy 1": [nan, nan, [0.26894143, -1, 0.73105854], nan, nan, nan],
  "linear_cross_entropy 0": [nan, nan, [-0.73105854, 0, 0.73105854], nan, nan, nan],
};

function expectValues(found: ArrayLike<number>, expected: number | readonly number[], what: string): void {
  Array.from(found).forEach((value, i) => {
    const wanted = typeof expected === "number" ? expected : expected[i];
    if (Number.isFinite(wanted)) expect(value, `${what}[${i}]`).toBeCloseTo(wanted, 5);
    else expect(value, `${what}[${i}]`).toBe(wanted);
  });
}

for (const [where, device] of Object.entries(devices)) {
  describe(`special values as in PyTorch, on ${where}`, () => {
    for (const [name, expected] of Object.entries(torch)) {
      it(name, async () => {
        for (const [i, row] of (Object.keys(rows) as Row[]).entries()) {
          const x = tensor(rows[row], [3], "f32", device());
          const found = await withDevice(device(), () => ours[name](x)).data();
          expectValues(found, expected[i], `${name} of ${row}`);
        }
      });
    }
    for (const [name, expected] of Object.entries(torchGradients)) {
      it(`gradient of ${name}`, async () => {
        for (const [i, row] of (Object.keys(rows) as Row[]).entries()) {
          const x = tensor(rows[row], [3], "f32", device()).requireGrad();
          const [dx] = withDevice(device(), () => {
            const y = ours[name](x);
            const cotangents = [tensor(y.size === 3 ? [1, 2, 3] : [1], y.shape, "f32", device())];
            return grads([y], [x], { cotangents });
          });
          expectValues(await dx!.data(), expected[i], `gradient of ${name} of ${row}`);
        }
      });
    }
  });
}
