import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { crossEntropy, linearCrossEntropy, matmul, mul, openDevice, transpose } from "../kernels/index.ts";
import { generator, worstRatio } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const [tokens, width, vocabulary] = [200, 12, 52];
const next = generator("linear cross-entropy");
const random = (count: number) => Array.from({ length: count }, () => next() * 2 - 1);
const values = { hidden: random(tokens * width), weight: random(vocabulary * width) };
const target = Array.from({ length: tokens }, (_, i) =>
  i % 7 === 3 ? -100 : Math.floor(next() * vocabulary),
);

function inputs(): { hidden: Tensor; weight: Tensor; labels: Tensor } {
  return {
    hidden: tensor(values.hidden, [tokens, width]).requireGrad(),
    weight: tensor(values.weight, [vocabulary, width]).requireGrad(),
    labels: tensor(target, [tokens], "i32"),
  };
}

describe("linearCrossEntropy", () => {
  for (const chunkBytes of [2 ** 24, 64 * vocabulary * 4, 1]) {
    it(`chunks of ${chunkBytes} bytes: loss, count and gradients of the plain composition`, async () => {
      const a = inputs();
      const logits = matmul(a.hidden, transpose(a.weight));
      const plain = mul(crossEntropy(logits, a.labels, { reduction: "sum" }), 0.25);
      const expected = [plain, ...grads(plain, [a.hidden, a.weight])];
      const b = inputs();
      const fused = linearCrossEntropy(b.hidden, b.weight, b.labels, { chunkBytes });
      const loss = mul(fused.loss, 0.25);
      const actual = [loss, ...grads(loss, [b.hidden, b.weight])];
      for (const [i, e] of expected.entries()) {
        const ratio = worstRatio(await actual[i]!.data(), await e!.data(), 1e-5, 1e-4);
        expect(ratio, `result ${i}`).toBeLessThanOrEqual(1);
      }
      expect(await fused.count.item()).toBe(target.filter((t) => t !== -100).length);
    });
  }

  it("gives the same loss without derivatives, and derives one input alone", async () => {
    const { hidden, weight, labels } = inputs();
    const chunkBytes = 64 * vocabulary * 4;
    const quiet = noGrad(() => linearCrossEntropy(hidden, weight, labels, { chunkBytes }).loss);
    const { loss } = linearCrossEntropy(hidden.detach(), weight, labels, { chunkBytes });
    expect(await quiet.item()).toBe(await loss.item());
    const [dhidden, dweight] = grads(loss, [hidden, weight]);
    expect(dhidden).toBeNull();
    expect(dweight?.shape).toEqual([vocabulary, width]);
  });

  it("never holds all logits", () => {
    const { hidden, weight, labels } = inputs();
    const all = tokens * vocabulary * 4;
    let most = 0;
    const allocate = gpu.allocate.bind(gpu);
    gpu.allocate = (dtype, length) => {
      most = Math.max(most, length * 4);
      return allocate(dtype, length);
    };
    scope(() => linearCrossEntropy(hidden, weight, labels, { chunkBytes: 1 }).loss);
    gpu.allocate = allocate;
    expect(most).toBeLessThanOrEqual(64 * vocabulary * 4);
    expect(most).toBeLessThan(all / 2);
  });

  it("names shapes that do not fit", () => {
    const { hidden, weight } = inputs();
    expect(() => linearCrossEntropy(hidden, weight, tensor([1, 2], [2], "i32"))).toThrow(
      /hidden \[200, 12\].*target \[2\]/,
    );
  });
});
