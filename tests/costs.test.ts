import { describe, expect, it } from "vitest";
import { flopsOf } from "../bench/costs.ts";
import { type DeviceProfile, findOp, type MatrixUnits } from "../core/op.ts";
import "../kernels/index.ts";
import { gpuProfile, meta } from "./support/null_backend.ts";

/** Kernels that only some adapters take would else be without a count there: every variant's files are counted here. */
const shapes = [{ m: 16, n: 16, k: 16 }];
const units: MatrixUnits = { dialect: "template", shapes, vectors: null, refused: [] };
const profiles: DeviceProfile[] = [
  gpuProfile(units),
  gpuProfile(null),
  gpuProfile(null, { subgroupSize: 0 }),
  gpuProfile(null, { class: "cpu", subgroupSize: 4 }),
];

/** Operations of a call, written down once more. */
const operations: Record<string, (inputs: readonly (readonly number[])[], causal: boolean) => number> = {
  matmul: ([a, b]) => 2 * a!.slice(0, -1).reduce((x, y) => x * y, 1) * b!.at(-2)! * b!.at(-1)!,
  fused_linear: ([x, gate]) => 2 * 2 * x![0] * gate![0] * gate![1],
  attention: ([query, key], causal) => 2 * 2 * pairs(query!, key!, causal),
  attention_backward: ([, query, key], causal) => 7 * 2 * pairs(query!, key!, causal),
};

function pairs([B, H, T, D]: readonly number[], key: readonly number[], causal: boolean): number {
  return B! * H! * D! * (causal ? (T! * (key[2] + 1)) / 2 : T! * key[2]);
}

/** Calls that between them every variant takes: one row and many, heads of many dimensions and of one that is odd. */
const heads = [64, 8, 5].flatMap((D) => [true, false].map((causal) => ({ D, causal })));
const attended = { scale: 1, masked: false, segmented: false, lseGrad: false };
const swiglu = { causal: false, activation: "swiglu", norm: "rms", eps: 1e-5 };
const calls: Record<string, { shapes: readonly (readonly number[])[]; attrs: { causal: boolean } }[]> = {
  fused_linear: [64, 7].flatMap((K) =>
    [3, 40].map((M) => ({
      shapes: [[M, K], [20, K], [20, K], [K]],
      attrs: swiglu,
    })),
  ),
  matmul: [1, 2, 200].flatMap((M) =>
    [64, 1100].map((K) => ({ shapes: [[M, K] as const, [K, 96] as const], attrs: { causal: false } })),
  ),
  attention: heads.map(({ D, causal }) => {
    const [query, key] = [
      [2, 4, 33, D],
      [2, 2, 33, D],
    ] as const;
    return { shapes: [query, key, key], attrs: { ...attended, causal } };
  }),
  attention_backward: heads.map(({ D, causal }) => {
    const [out, query, key] = [
      [2, 33, 4, D],
      [2, 4, 33, D],
      [2, 2, 33, D],
    ] as const;
    return { shapes: [out, query, key, key, out, [2, 4, 33]], attrs: { ...attended, causal } };
  }),
};

describe("operations are counted in every variant of", () => {
  for (const [name, count] of Object.entries(operations)) {
    it(name, () => {
      const op = findOp(name);
      const seen = new Set<string>();
      for (const { shapes, attrs } of calls[name]) {
        for (const profile of profiles) {
          for (const dtype of ["f32", "f16"] as const) {
            const inputs = shapes.map((shape, i) => meta(shape, i === 5 ? "f32" : dtype));
            // A layer's weight lies [N, K].
            if (name === "matmul") inputs[1] = meta(shapes[1], dtype, [1, shapes[1][0]]);
            const outputs = op.infer(inputs, attrs as never).map((o) => meta(o.shape, o.dtype));
            const call = { profile, inputs, outputs, attrs } as never;
            for (const variant of op.variants) {
              if (variant.when && !variant.when(call)) continue;
              const plan = variant.plan(call);
              const files = ("passes" in plan ? plan.passes : [plan]).map(
                (pass) => pass.file ?? variant.file,
              );
              const counted = files.map((file) =>
                flopsOf({ op: name, variant: variant.name, file, inputs, outputs, attrs } as never),
              );
              const sum = counted.reduce<number>((total, flops) => total + (flops ?? 0), 0);
              expect(sum, `${variant.name}: ${files}`).toBe(count(shapes, attrs.causal));
              seen.add(variant.name);
            }
          }
        }
      }
      expect([...seen].sort()).toEqual(op.variants.map((variant) => variant.name).sort());
    });
  }
});
