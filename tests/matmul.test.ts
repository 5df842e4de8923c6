import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { type Device, setDevice } from "../core/device.ts";
import type { DType } from "../core/dtype.ts";
import { type AnyOp, defineOp, findOp, type Op, type SampleInput, type TensorMeta } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { contiguousStrides } from "../core/shape.ts";
import { noGrad } from "../core/tape.ts";
import { Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { add, gelu, linear, matmul, mul, openDevice, transpose } from "../kernels/index.ts";
import type { MatmulAttrs } from "../kernels/matmul/index.ts";
import { planSubgroup, planSubgroupInRows } from "../kernels/matmul/plan.ts";
import { generator, place, runSample, sampleValues, worstRatio } from "./support/ops_harness.ts";

/** What the generic suite cannot see: rows that do not depend on their neighbours, what surrounds a view, the copy of B, `linear`. */
let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

function random(shape: number[], seed: string): Tensor {
  const next = generator(seed);
  return tensor(
    Array.from({ length: shape.reduce((x, y) => x * y, 1) }, () => next() * 2 - 1),
    shape,
  );
}

function meta(shape: number[]): TensorMeta {
  return { shape, dtype: "f32", strides: contiguousStrides(shape), offset: 0 };
}

async function withVariant<T>(name: string, body: () => Promise<T>): Promise<T> {
  gpu.forcedVariant.set("matmul", name);
  try {
    return await body();
  } finally {
    gpu.forcedVariant.delete("matmul");
  }
}

describe("tiles to choose from by measurement", () => {
  const flip = (t: Tensor) => transpose(t, 0, 1);
  const cases: [string, () => [Tensor, Tensor]][] = [
    ["row-major", () => [random([130, 20], "a"), random([20, 130], "b")]],
    ["transposed", () => [flip(random([36, 68], "a")), flip(random([66, 36], "b"))]],
    ["cut along K", () => [random([64, 2100], "a"), flip(random([40, 2100], "b"))]],
  ];
  it.each(cases)("%s: every tile gives the same bits", async (_name, make) => {
    const [a, b] = make();
    const asked: (readonly string[])[] = [];
    const { tuner } = gpu;
    const run = (option: string | undefined) =>
      withVariant("tiled", async () => {
        const optionOf: typeof tuner.optionOf = (_op, variant, call) => {
          asked.push(variant.tune!(call)!.options);
          return option;
        };
        Object.assign(gpu, { tuner: { optionOf } });
        return Array.from(await matmul(a, b).data());
      });
    try {
      const byRule = await run(undefined);
      const options = asked[0];
      expect(options.length).toBeGreaterThan(2);
      for (const option of options) expect(await run(option), option).toEqual(byRule);
    } finally {
      Object.assign(gpu, { tuner });
    }
  });
});

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
          const some = await run(rows.asStrided([count, K], [K, 1], 0));
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
          for (const [i, y] of straight.entries()) expect(y, variant).toBeCloseTo(expected[i], 4);
          const product = matmul(transpose(b.view, 0, 1), transpose(a.view, 0, 1));
          Array.from(await product.data()).forEach((y, i) => {
            const [n, m] = [Math.floor(i / M), i % M];
            expect(y, `${variant}, transposed`).toBeCloseTo(flipped[m * N + n], 4);
          });
        });
      }
    });
  }
});

describe("B copied to rows before the product", () => {
  const spec = findOp("matmul") as unknown as Op<MatmulAttrs>;
  const copying = defineOp<MatmulAttrs>({
    ...spec,
    name: "matmul_in_rows",
    variants: [{ name: "in_rows", file: "matmul/subgroup.wgsl", strided: true, plan: planSubgroupInRows }],
  });
  const turned = (shape: number[]): SampleInput => ({ shape, layout: "transposed" });
  const cases: [string, SampleInput[], MatmulAttrs][] = [
    ["vectors along k", [{ shape: [133, 12] }, turned([12, 20])], {}],
    ["single elements, edges", [{ shape: [130, 7] }, turned([7, 33])], {}],
    ["gaps", [{ shape: [129, 6] }, { shape: [6, 10], layout: "strided" }], {}],
    ["rows of a batch", [{ shape: [2, 70, 8] }, turned([8, 5])], {}],
    ["batches", [{ shape: [2, 3, 128, 9] }, turned([2, 3, 9, 6])], {}],
    ["shared by an outer batch", [{ shape: [2, 3, 128, 8] }, turned([3, 8, 12])], {}],
    ["shared by an inner batch", [{ shape: [2, 3, 128, 4] }, turned([2, 1, 4, 8])], {}],
    ["two axes of batches", [{ shape: [2, 1, 128, 4] }, turned([2, 3, 4, 8])], {}],
    ["shared by both A's and B's", [{ shape: [2, 1, 128, 4] }, turned([3, 4, 7])], {}],
    [
      "epilogue",
      [{ shape: [140, 18] }, turned([18, 9]), { shape: [9] }, { shape: [140, 9] }],
      { bias: true, activation: "gelu", residual: true, scale: 0.5 },
    ],
    ["K cut", [{ shape: [128, 530] }, turned([530, 12])], {}],
    ["one k", [{ shape: [128, 1] }, turned([1, 5])], {}],
    ["no k", [{ shape: [128, 0] }, { shape: [0, 5] }], {}],
  ];
  const outputOf = (
    op: Op<MatmulAttrs>,
    inputs: SampleInput[],
    attrs: MatmulAttrs,
    dtype: DType,
    on: Device,
  ) => {
    const placed = inputs.map((input, i) => place(on, input, dtype, sampleValues(input, dtype, `rows${i}`)));
    return runSample(on, op as unknown as AnyOp, placed, attrs);
  };

  for (const [name, inputs, attrs] of cases) {
    it(`${name}: equals the reference, and has the bits of the product without a copy`, async (context) => {
      if (gpu.profile.class !== "cpu" || gpu.profile.subgroupSize < 4)
        return context.skip("only software adapters with subgroups copy B");
      for (const dtype of gpu.profile.f16 ? (["f32", "f16"] as const) : (["f32"] as const)) {
        const expected = await outputOf(spec, inputs, attrs, dtype, new ReferenceDevice());
        const [y] = await outputOf(copying, inputs, attrs, dtype, gpu);
        const loose = dtype === "f16" ? 4e-3 : 3e-4;
        expect(worstRatio(y!, expected[0], loose, loose), dtype).toBeLessThanOrEqual(1);
        // Where rows must not depend on their number B is never copied, nor is K cut.
        const invariant = { ...attrs, batchInvariant: true };
        const [inPlace] = await outputOf(spec, inputs, invariant, dtype, gpu);
        expect((await outputOf(copying, inputs, invariant, dtype, gpu))[0], dtype).toEqual(inPlace);
      }
    });
  }

  it("is chosen for many rows, never for a server's products", () => {
    const product = (
      M: number,
      layout: "rows" | "columns",
      subgroupSize: number,
      attrs: MatmulAttrs = {},
    ) => {
      const inputs = [meta([M, 8]), { ...meta([8, 12]), strides: layout === "rows" ? [12, 1] : [1, 8] }];
      const profile = { ...gpu.profile, class: "cpu", subgroupSize } as const;
      const plan = planSubgroup({ profile, inputs, outputs: [meta([M, 12])], attrs });
      return plan.passes.map(({ file }) => file ?? "product");
    };
    const copied = ["matmul/to_rows.wgsl", "product"];
    expect(product(128, "columns", 8)).toEqual(copied);
    expect(product(127, "columns", 8)).toEqual(["product"]);
    expect(product(128, "rows", 8)).toEqual(["product"]);
    expect(product(128, "columns", 4)).toEqual(["matmul/to_rows.wgsl", "product"]);
    expect(product(128, "columns", 8, { batchInvariant: true })).toEqual(["product"]);
  });
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
      for (const [i, v] of (await y.data()).entries()) expect(v).toBeCloseTo(expected[i], 5);
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
