import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { noGrad } from "../core/tape.ts";
import { Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { add, gelu, linear, matmul, mul, openDevice, transpose } from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

/** What the generic suite cannot see: rows that do not depend on their neighbours, what surrounds a view, `linear`. */
let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

function random(shape: number[], seed: string): Tensor {
  const next = generator(seed);
  return tensor(
    Array.from({ length: shape.reduce((x, y) => x * y, 1) }, () => next() * 2 - 1),
    shape,
  );
}

async function withVariant<T>(name: string, body: () => Promise<T>): Promise<T> {
  gpu.forcedVariant.set("matmul", name);
  try {
    return await body();
  } finally {
    gpu.forcedVariant.delete("matmul");
  }
}

describe("batch invariance", () => {
  const [N, K] = [36, 520];
  for (const variant of ["chosen", "tiled"]) {
    it(`${variant}: a row has the same bits among 1 and among 70 rows`, async () => {
      const rows = random([70, K], "rows");
      const weight = random([N, K], "weight");
      const bias = random([N], "bias");
      const run = async (x: Tensor) =>
        Array.from(await linear(x, weight, bias, { batchInvariant: true }).data());
      const compare = async () => {
        const all = await run(rows);
        for (const count of [1, 2, 7, 17, 64]) {
          const some = await run(rows.view([count, K], [K, 1], 0));
          expect(some, `${count} rows`).toEqual(all.slice(0, count * N));
        }
      };
      await (variant === "chosen" ? compare() : withVariant(variant, compare));
    });
  }
});

describe("views into memory that is not a number", () => {
  // The block lies in the middle of NaN: a kernel that lets one value beyond an edge into a sum shows it.
  function island(
    rows: number,
    columns: number,
    pitch: number,
    seed: string,
  ): { view: Tensor; copy: Tensor } {
    const copy = random([rows, columns], seed);
    const next = generator(seed);
    const start = pitch + 4;
    const memory = new Array<number>((rows + 2) * pitch).fill(Number.NaN);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) memory[start + r * pitch + c] = next() * 2 - 1;
    }
    const view = new Tensor(tensor(memory, [memory.length]).storage, [rows, columns], [pitch, 1], start);
    return { view, copy };
  }

  for (const [M, N, K] of [
    [5, 6, 7],
    [18, 35, 9],
    [3, 33, 66],
  ] as const) {
    it(`[${M}, ${K}] times [${K}, ${N}], and its operands transposed`, async () => {
      const a = island(M, K, 72, "a");
      const b = island(K, N, 72, "b");
      const expected = Array.from(await matmul(a.copy, b.copy).data());
      const flipped = Array.from(
        await transpose(matmul(transpose(b.copy, 0, 1), transpose(a.copy, 0, 1)), 0, 1).data(),
      );
      for (const variant of ["subgroup", "tiled", "plain"]) {
        await withVariant(variant, async () => {
          if (variant === "subgroup" && (gpu.profile.class !== "cpu" || gpu.profile.subgroupSize === 0))
            return;
          const straight = Array.from(await matmul(a.view, b.view).data());
          for (const [i, y] of straight.entries()) expect(y, variant).toBeCloseTo(expected[i]!, 4);
          const product = matmul(transpose(b.view, 0, 1), transpose(a.view, 0, 1));
          Array.from(await product.data()).forEach((y, i) => {
            const [n, m] = [Math.floor(i / M), i % M];
            expect(y, `${variant}, transposed`).toBeCloseTo(flipped[m * N + n]!, 4);
          });
        });
      }
    });
  }
});

describe("linear", () => {
  it("with activation and residual equals its parts, recorded or not, and so do its derivatives", async () => {
    const make = () =>
      ([[2, 3, 10], [6, 10], [6], [2, 3, 6]] as const).map((s, i) =>
        random([...s], `linear${i}`).requireGrad(),
      );
    const [x, weight, bias, residual] = make() as [Tensor, Tensor, Tensor, Tensor];
    const options = { activation: "gelu", residual } as const;
    const fused = noGrad(() => linear(x, weight, bias, options));
    const recorded = linear(x, weight, bias, options);
    const parts = add(gelu(add(matmul(x, transpose(weight, 0, 1)), bias)), residual);
    const expected = Array.from(await parts.data());
    for (const y of [fused, recorded]) {
      for (const [i, v] of (await y.data()).entries()) expect(v).toBeCloseTo(expected[i]!, 5);
    }
    const inputs = [x, weight, bias, residual];
    const ones = mul(parts.detach(), 0.5);
    const given = grads([recorded], inputs, { cotangents: [ones] });
    const wanted = grads([parts], inputs, { cotangents: [ones] });
    for (const [i, g] of wanted.entries()) {
      const values = Array.from(await g!.data());
      for (const [k, v] of (await given[i]!.data()).entries()) expect(v).toBeCloseTo(values[k]!, 4);
      expect(given[i]!.shape).toEqual(inputs[i]!.shape);
    }
    expect(given[1]!.contiguous, "a weight's gradient is laid out as the weight").toBe(true);
  });

  it("names shapes that do not fit", () => {
    const x = random([2, 3], "x");
    expect(() => linear(x, random([4, 5], "w"))).toThrow(
      /matmul\(f32\[2, 3\], f32\[5, 4\]\): the last axis of the first \(3\)/,
    );
    expect(() => matmul(x, tensor(1))).toThrow(/at least one axis/);
  });
});
