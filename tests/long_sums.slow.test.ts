import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { ones, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

describe("accuracy", () => {
  it("of long sums grows with the root of their length, by every kernel", async () => {
    const next = generator("sums");
    const values = {
      "0.1": () => 0.1,
      random: () => next(),
    };
    for (const [name, value] of Object.entries(values)) {
      for (const n of [4096, 100_000]) {
        const x = Float32Array.from({ length: n }, value);
        const exact = x.reduce((s, v) => s + v, 0);
        // Many rows, so that a row is not cut into parts for many workers; and one alone, which is.
        const tall = tensor(
          Float32Array.from({ length: 3 * n }, (_, i) => x[Math.floor(i / 3)]),
          [n, 3],
        );
        for (const variant of ["subgroup", "thread"]) {
          gpu.forcedVariant.set("sum", variant);
          const rows = k.expand(tensor(x, [1, n]), [280, n]);
          const found = [k.sum(tensor(x)), k.select(k.sum(rows, 1), 0, 279)];
          if (variant === "thread")
            found.push(k.select(k.sum(tall, 0), 0, 2), k.select(k.cumsum(tensor(x), 0), 0, n - 1));
          const limit = 2 ** -24 * (256 + 2 * Math.sqrt(n));
          for (const t of found)
            expect(Math.abs((await t.item()) / exact - 1), `${name}, ${n}`).toBeLessThan(limit);
          const squares = x.reduce((s, v) => s + v * v, 0);
          expect(
            Math.abs((await k.globalNorm([tensor(x)]).norm.item()) / Math.sqrt(squares) - 1),
          ).toBeLessThan(limit);
        }
        gpu.forcedVariant.clear();
      }
    }
    const large = ones([1 << 22]);
    for (const variant of ["subgroup", "thread", "workgroup", "together"]) {
      gpu.forcedVariant.set("global_norm", variant);
      const { norm } = k.globalNorm([k.mul(large, 0.1), k.mul(large, 0.1)]);
      expect(Math.abs((await norm.item()) / (Math.fround(0.1) * Math.sqrt(2 ** 23)) - 1)).toBeLessThan(2e-5);
    }
    gpu.forcedVariant.clear();
  });

  it("of long products grows with the root of K, by every kernel, batch invariant or not", async () => {
    const next = generator("products");
    const run = async (
      variant: string,
      K: number,
      N: number,
      value: () => number,
      options: k.MatmulOptions,
    ) => {
      const a = Float32Array.from({ length: K }, value);
      const b = Float32Array.from({ length: K }, value);
      const exact = a.reduce((s, v, i) => s + v * b[i], 0);
      const size = a.reduce((s, v, i) => s + Math.abs(v * b[i]), 0);
      gpu.forcedVariant.set("matmul", variant);
      // One row and one column, repeated: all results are one number.
      const rows = k.expand(tensor(a, [1, K]), [3, K]);
      const right = k.transpose(tensor(b, [1, K]));
      const y = await k.matmul(k.contiguous(rows), k.expand(right, [K, N]), options).data();
      gpu.forcedVariant.clear();
      const error = Math.max(...Array.from(y, (v) => Math.abs(v - exact))) / size;
      expect(error / (2 ** -24 * Math.sqrt(K)), `${variant}, K = ${K}, N = ${N}`).toBeLessThan(8);
    };
    const kernels = {
      subgroup: gpu.profile.subgroupSize > 0,
      plain: true,
      tiled: gpu.profile.maxWorkgroupSize >= 256,
    };
    for (const value of [() => 0.3, next, () => next() - 0.5]) {
      for (const [variant, runs] of Object.entries(kernels)) {
        if (!runs) continue;
        for (const batchInvariant of [false, true])
          for (const K of [1000, 100_000]) await run(variant, K, 36, value, { batchInvariant });
      }
    }
    // Wide enough that a part of K is still long when it has been cut to fill a GPU.
    if (kernels.tiled) await run("tiled", 80_000, 1024, () => 0.3, {});
  }, 120_000);
});
