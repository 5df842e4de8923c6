import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { apply, type Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { attentionOp } from "../kernels/attention/op.ts";
import { attention, openDevice, permute, reshape, rope, sum } from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

const next = generator("attention");
const random = (n: number) => Float32Array.from({ length: n }, () => next() * 2 - 1);
const make = (shape: number[], values = random(shape.reduce((a, b) => a * b, 1))) => tensor(values, shape);

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce((worst, x, i) => {
    const difference = Math.abs(x - b[i]);
    return difference <= worst ? worst : difference;
  }, 0);
}

describe("attention", () => {
  it("gives packed sequences what each gets alone, values and gradients", async () => {
    const lengths = [5, 17, 1, 12];
    const [heads, dim] = [2, 8];
    const total = lengths.reduce((a, b) => a + b, 0);
    const inputs = [0, 1, 2].map(() => make([1, total, heads, dim]).requireGrad());
    const weights = make([1, total, heads, dim]);
    const segments = tensor(
      lengths.flatMap((n, i) => new Array<number>(n).fill(i)),
      [1, total],
      "i32",
    );
    const headsFirst = (t: Tensor) => permute(t, [0, 2, 1, 3]);
    const [q, k, v] = inputs.map(headsFirst) as [Tensor, Tensor, Tensor];
    const out = headsFirst(attention(q, k, v, { causal: true, segments }));
    const found = grads(out, inputs, { cotangents: [weights] });
    const packed = await Promise.all([out, ...found].map((t) => t!.data()));

    let start = 0;
    const row = heads * dim;
    for (const n of lengths) {
      const cut = async (t: Tensor) =>
        tensor((await t.data()).slice(start * row, (start + n) * row), [1, n, heads, dim]);
      const alone = await Promise.all(inputs.map(async (t) => (await cut(t)).requireGrad()));
      const [q1, k1, v1] = alone.map(headsFirst) as [Tensor, Tensor, Tensor];
      const result = headsFirst(attention(q1, k1, v1, { causal: true }));
      const gradients = grads(result, alone, { cotangents: [await cut(weights)] });
      for (const [i, t] of [result, ...gradients].entries()) {
        const part = packed[i].slice(start * row, (start + n) * row);
        expect(largestDifference(await t!.data(), part)).toBeLessThan(2e-6);
      }
      start += n;
    }
  });

  it("reads [B, T, H, D] memory without a copy and leaves its result in that layout", async () => {
    const flat = [0, 1, 2].map(() => make([2, 9, 4 * 8]));
    const [q, k, v] = flat.map((t) => permute(reshape(t, [2, 9, 4, 8]), [0, 2, 1, 3])) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const before = gpu.bytesInUse;
    const out = attention(q, k, v, { causal: true });
    const joined = reshape(permute(out, [0, 2, 1, 3]), [2, 9, 32]);
    expect(joined.storage).toBe(out.storage);
    // The result and its log-sum-exp: a copy of an input would show.
    expect(gpu.bytesInUse - before).toBeLessThan(2 * (2 * 9 * 32 * 4 + 256));
    const dense = [q, k, v].map((t) => reshape(permute(t, [0, 1, 2, 3]), [2 * 4, 9, 8]));
    const again = attention(...(dense.map((t) => reshape(t, [2, 4, 9, 8])) as [Tensor, Tensor, Tensor]), {
      causal: true,
    });
    expect(largestDifference(await again.data(), await out.data())).toBe(0);
  });

  it("gives rows that see no key zeros and zero gradients", async () => {
    const inputs = [0, 1, 2].map(() => make([1, 2, 4, 8]).requireGrad());
    const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
    const mask = tensor(
      new Array(4 * 4).fill(0).map((_, i) => Number(i >= 8)),
      [1, 1, 4, 4],
      "bool",
    );
    const out = attention(q, k, v, { mask });
    const found = grads(out, inputs, { cotangents: [make([1, 2, 4, 8])] });
    const [values, dq, ...rest] = await Promise.all([out, ...found].map((t) => t!.data()));
    for (const list of [values!, dq!, ...rest]) expect(Array.from(list).every(Number.isFinite)).toBe(true);
    for (const head of [0, 1]) {
      expect(Array.from(values!.slice(head * 32, head * 32 + 16))).toEqual(new Array(16).fill(0));
      expect(Array.from(dq!.slice(head * 32, head * 32 + 16))).toEqual(new Array(16).fill(0));
      expect(values!.slice(head * 32 + 16, head * 32 + 32).some((x) => x !== 0)).toBe(true);
    }
  });

  it("stays finite where scores are in the thousands", async () => {
    const q = make(
      [1, 1, 6, 8],
      random(48).map((x) => x * 300),
    ).requireGrad();
    const k = make(
      [1, 1, 6, 8],
      random(48).map((x) => x * 300),
    ).requireGrad();
    const v = make([1, 1, 6, 8]).requireGrad();
    const out = attention(q, k, v, { causal: true });
    const found = grads(out, [q, k, v], { cotangents: [make([1, 1, 6, 8])] });
    for (const t of [out, ...found]) expect(Array.from(await t!.data()).every(Number.isFinite)).toBe(true);
  });

  it("takes the gradient of a plain sum of log-sum-exps, one number spread by strides of 0", async () => {
    const values = [0, 1, 2].map(() => random(2 * 2 * 5 * 8));
    const run = async () => {
      const inputs = values.map((v) => make([2, 2, 5, 8], v).requireGrad());
      const attrs = { causal: true, scale: 0.3, masked: false, segmented: false };
      const [, lse] = apply(attentionOp, inputs, attrs);
      const found = grads(sum(lse!), inputs);
      return await Promise.all(found.map(async (t) => Array.from(await t!.data())));
    };
    const exact = await withDevice(new ReferenceDevice(), run);
    for (const [i, found] of (await run()).entries()) {
      expect(largestDifference(found, exact[i])).toBeLessThan(2e-6);
    }
  });

  it("says which limit of the adapter a call is over", () => {
    const many = zeros([1, 70000, 1, 4]);
    expect(() => attention(many, many, many)).toThrow(/attention: a grid of 70000 .* split the batch/);
    const { maxStorageBuffers } = gpu.profile;
    const q = make([1, 1, 4, 12]).requireGrad();
    const segments = tensor([0, 0, 1, 1], [1, 4], "i32");
    const mask = tensor(new Array(16).fill(1), [1, 1, 4, 4], "bool");
    const out = attention(q, q, q, { segments, mask });
    Object.assign(gpu.profile, { maxStorageBuffers: 8 });
    expect(() => grads(out, [q], { cotangents: [make([1, 1, 4, 12])] })).toThrow(
      /attention_backward: this call binds 9 buffers .* takes 8; leave an optional input out/,
    );
    Object.assign(gpu.profile, { maxStorageBuffers });
  });

  it("names what does not fit", () => {
    const q = make([1, 3, 4, 8]);
    expect(() => attention(q, make([1, 2, 4, 8]), make([1, 2, 4, 8]))).toThrow(
      /attention\(f32\[1, 3, 4, 8\].*KV dividing H/,
    );
    expect(() => attention(q, q, q, { mask: tensor([1, 1], [1, 1, 1, 2], "bool") })).toThrow(/bool mask/);
    expect(() => attention(q, q, q, { segments: tensor([0, 0], [1, 2], "i32") })).toThrow(
      /segments \[B, T\]/,
    );
  });
});

describe("rope", () => {
  it("is right to 1e-6 at position 100000", async () => {
    const pairs = 16;
    const frequencies = Float32Array.from({ length: pairs }, (_, p) => 10000 ** (-p / pairs));
    const x = random(2 * pairs);
    const run = () =>
      rope(tensor(x, [1, 1, 2 * pairs]), tensor(frequencies), tensor([100000], [1], "i32")).data();
    const exact = await withDevice(new ReferenceDevice(), run);
    expect(largestDifference(await run(), exact)).toBeLessThan(2e-6);
  });

  it("makes scores depend on the distance alone", async () => {
    const frequencies = tensor([1, 0.1, 0.01, 0.001]);
    const [q, k] = [random(8), random(8)];
    const score = async (at: number, distance: number) => {
      const turned = [
        rope(tensor(q, [1, 1, 8]), frequencies, tensor([at + distance], [1], "i32")),
        rope(tensor(k, [1, 1, 8]), frequencies, tensor([at], [1], "i32")),
      ];
      const [a, b] = await Promise.all(turned.map((t) => t.data()));
      return Array.from(a!).reduce((sum, x, i) => sum + x * b![i], 0);
    };
    expect(await score(0, 7)).toBeCloseTo(await score(4321, 7), 5);
  });
});
