import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { embedding, gather, indexSelect, openDevice, scatterAdd } from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const next = generator("embedding");

describe("embedding's gradient", () => {
  for (const variant of ["serial", "parallel"]) {
    // Blocks of 256 and a rest; one, two and three rounds of eight bits.
    for (const [tokens, vocabulary] of [
      [900, 250],
      [900, 3000],
      [5000, 70000],
    ] as const) {
      it(`adds ${tokens} tokens of ${vocabulary} in their order, ${variant}: the bits of a plain f32 loop`, async (context) => {
        if (variant === "serial" && gpu.profile.class === "gpu") context.skip("GPUs sort in parallel alone");
        const width = 4;
        // A few ids take most tokens, as words do.
        const ids = Array.from({ length: tokens }, () => Math.floor(next() ** 4 * vocabulary));
        const dy = Float32Array.from({ length: tokens * width }, () => next() * 2 - 1);
        const expected = new Float32Array(vocabulary * width);
        ids.forEach((id, token) => {
          for (let i = 0; i < width; i++) expected[id * width + i] += dy[token * width + i];
        });
        const weight = tensor(new Float32Array(vocabulary * width), [vocabulary, width]).requireGrad();
        const y = embedding(tensor(ids, [tokens], "u32"), weight);
        gpu.forcedVariant.set("embedding_backward", variant);
        const [dweight] = grads(y, [weight], { cotangents: [tensor(dy, [tokens, width])] });
        gpu.forcedVariant.delete("embedding_backward");
        // A plain comparison: that of large arrays by the test runner takes longer than the kernels.
        const found = await dweight!.data();
        expect(expected.findIndex((x, i) => x !== found[i])).toBe(-1);
      });
    }
  }
});

describe("gather, index_select and scatter_add along any axis", () => {
  const x = () => tensor([0, 1, 2, 10, 11, 12, 20, 21, 22], [3, 3]).requireGrad();

  it("gather reads an index that is smaller than the input", async () => {
    const index = tensor([2, 0, 1, 2], [2, 2], "i32");
    expect(Array.from(await gather(x(), 0, index).data())).toEqual([20, 1, 10, 21]);
    expect(Array.from(await gather(x(), 1, index).data())).toEqual([2, 0, 11, 12]);
  });

  it("index_select repeats slices, and their gradients add up", async () => {
    const input = x();
    const y = indexSelect(input, 1, tensor([2, 0, 2], [3], "i32"));
    expect(Array.from(await y.data())).toEqual([2, 0, 2, 12, 10, 12, 22, 20, 22]);
    const [dx] = grads(y, [input], { cotangents: [tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 3])] });
    expect(Array.from(await dx!.data())).toEqual([2, 0, 4, 5, 0, 10, 8, 0, 16]);
  });

  it("scatter_add adds what meets", async () => {
    const index = tensor([0, 2, 0, 2, 2, 0], [2, 3], "i32");
    const y = scatterAdd(x(), 0, index, tensor([1, 2, 3, 4, 5, 6], [2, 3]));
    expect(Array.from(await y.data())).toEqual([1, 1, 11, 10, 11, 12, 24, 28, 22]);
  });

  it("names what does not fit", () => {
    expect(() => gather(x(), 0, tensor([0], [1], "i32"))).toThrow();
    expect(() => embedding(tensor([0], [1]), x())).toThrow(/embedding\(f32\[1\], f32\[3, 3\]\)/);
  });
});
