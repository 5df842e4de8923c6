import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { setDevice } from "../core/device.ts";
import { type AnyOp, findOp, type MatrixShape, type MatrixUnits, type Sample } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import type { Tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { emit, lower } from "../core/webgpu/lowering.ts";
import {
  matrixFeature,
  matrixShapes,
  multiplies,
  probeMatrixUnits,
  probeSource,
} from "../core/webgpu/matrix_units.ts";
import { backwardVariants, forwardVariants } from "../kernels/attention/plan.ts";
import { openDevice } from "../kernels/index.ts";
import { planMatrix, suitsMatrix, tuneMatrix } from "../kernels/matmul/matrix.ts";
import { readKernel } from "../kernels/sources.ts";
import { complaints, gpuProfile, meta, nullDevice, realShapes } from "./support/null_backend.ts";
import { place, runSample, sampleInputs, sampleValues, worstRatio } from "./support/ops_harness.ts";
import { specialsEqualReference } from "./support/special_values.ts";

/**
 * No adapter with matrix units is needed: the numbers of the kernels are checked with an emulation of the units in plain
 * WGSL, in f32 and so to the last bits, and that the real dialects are valid by Dawn's backend that only validates.
 */

const reference = new ReferenceDevice();
const square: MatrixShape = { m: 4, n: 4, k: 4 };
const oblong: MatrixShape = { m: 2, n: 8, k: 4 };
const asVectors = { offset: 1, stride: 1 } as const;
const [small, vectored, double] = ["8x8x8 by 1", "8x8x8 by 1 vectors", "16x8x16 by 2 double"];
let gpu: WebGpuDevice;
let opened: MatrixUnits | null;
let validator: GPUDevice;

beforeAll(async () => {
  gpu = await openDevice();
  opened = gpu.profile.matrix;
  gpu.poison = true;
  if (!able())
    console.warn(`matrix units are not emulated: ${gpu.profile.name} has no subgroups of one size`);
  validator = await nullDevice();
});
afterAll(() => setDevice(null));

function able(): boolean {
  return gpu.profile.subgroupSize >= 4;
}

function emulate(shape: MatrixShape, vectors: MatrixUnits["vectors"] = null): MatrixUnits {
  const units: MatrixUnits = { dialect: "emulated", shapes: [shape], vectors, refused: [] };
  gpu.profile.matrix = units;
  return units;
}

/** Results of the variant `matrix`. */
async function onMatrices(
  op: AnyOp,
  sample: Sample<unknown>,
  option?: string,
  inputs = sampleInputs(gpu, op, sample),
): Promise<number[][]> {
  const outputs = op
    .infer(inputs, sample.attrs as never)
    .map(({ shape, dtype }) => place(gpu, { shape }, dtype, new Array(size(shape)).fill(Number.NaN)));
  const choice = { forced: "matrix", ...(option !== undefined && { option }) };
  emit(gpu, lower(gpu, op, inputs, sample.attrs, outputs, choice), op, inputs, sample.attrs, outputs);
  return Promise.all(outputs.map(async (t) => Array.from(await t.data())));
}

const size = (shape: readonly number[]) => shape.reduce((x, y) => x * y, 1);

async function compare(op: AnyOp, sample: Sample<unknown>, option?: string): Promise<void> {
  const expected = await runSample(reference, op, sampleInputs(reference, op, sample), sample.attrs);
  const actual = await onMatrices(op, sample, option);
  expected.forEach((values, i) => {
    const { atol = 1e-5, rtol = 1e-4 } = sample;
    expect(worstRatio(actual[i], values, atol, rtol), `result ${i}`).toBeLessThanOrEqual(1);
  });
}

function sampleOf(op: AnyOp, name: string): Sample<unknown> {
  const found = (op.samples() as unknown as Sample<unknown>[]).find((s) => s.name === name);
  if (!found) throw new Error(`${op.name} has no sample ${name}`);
  return found;
}

interface Suite {
  op: string;
  shape: MatrixShape;
  vectors?: MatrixUnits["vectors"];
  option?: string;
  samples: string[];
}

const attended = ["odd", "causal, more keys", "causal, fewer keys", "grouped heads"];
const masked = ["key mask", "pair mask, causal", "segments", "segments and mask"];
const suites: Suite[] = [
  {
    op: "matmul",
    shape: square,
    option: small,
    samples: [
      "edges",
      "edge of K",
      "transposed edges",
      "both transposed",
      "shared heads",
      "cut K, odd",
      "everything, cut K",
      "bias, gelu by tanh, residual",
    ],
  },
  { op: "matmul", shape: square, option: double, samples: ["large tile", "transposed edges", "cut K, odd"] },
  {
    op: "matmul",
    shape: oblong,
    option: vectored,
    vectors: asVectors,
    samples: ["edges", "transposed edges"],
  },
  { op: "attention", shape: square, samples: [...attended, ...masked] },
  { op: "attention", shape: oblong, vectors: asVectors, samples: ["odd", "causal"] },
  {
    op: "attention_backward",
    shape: square,
    samples: [...attended, "pair mask, causal", "segments and mask", "odd, grad of lse"],
  },
  { op: "attention_backward", shape: oblong, vectors: asVectors, samples: ["odd"] },
];

describe("emulated", () => {
  for (const { op, shape, vectors = null, option, samples } of suites) {
    const title = `${op} by ${shape.m}x${shape.n}x${shape.k}${vectors ? " from vectors" : ""}${option ? `, ${option}` : ""}`;
    for (const name of samples) {
      it(`${title}: ${name}`, async (context: TestContext) => {
        if (!able()) return context.skip("no subgroups of one size");
        emulate(shape, vectors);
        await compare(findOp(op), sampleOf(findOp(op), name), option);
      });
      it(`${title}: ${name}: NaN, infinities and signed zeros`, async (context: TestContext) => {
        if (!able()) return context.skip("no subgroups of one size");
        emulate(shape, vectors);
        const sample = sampleOf(findOp(op), name);
        const run = (inputs: Tensor[]) => onMatrices(findOp(op), sample, option, inputs);
        await specialsEqualReference({ reference, gpu }, findOp(op), sample, "f32", run);
      });
    }
  }

  it("attention has a tile for subgroups of every size", () => {
    const profiles = [4, 8, 16, 32, 64].flatMap((subgroupSize) =>
      [square, oblong].map((shape) => {
        const units: MatrixUnits = { dialect: "emulated", shapes: [shape], vectors: null, refused: [] };
        // Half of the 32 KiB of adapters that have least: panels in f32 take twice what is counted, for f16.
        return gpuProfile(units, { subgroupSize, maxWorkgroupSize: 256, maxWorkgroupMemory: 16384 });
      }),
    );
    const attended = suites.filter(({ op }) => op.startsWith("attention"));
    for (const profile of profiles) {
      const shape = profile.matrix!.shapes[0];
      for (const { op, samples } of attended.filter((suite) => suite.shape === shape)) {
        for (const name of samples) {
          const { attrs, inputs } = sampleOf(findOp(op), name);
          const metas = inputs.map((input) => meta(input.shape, input.dtype ?? "f32"));
          const taken = findOp(op).variants[0].when!({
            profile,
            inputs: metas,
            outputs: [],
            attrs,
          } as never);
          expect(taken, `${op} ${name}, ${shape.m}x${shape.n}, ${profile.subgroupSize} lanes`).toBe(true);
        }
      }
    }
  });

  it("matmul hands out its sums in pieces where workgroup memory is short", async (context: TestContext) => {
    if (!able()) return context.skip("no subgroups of one size");
    emulate(square);
    const profile = gpu.profile as { maxWorkgroupMemory: number };
    const { maxWorkgroupMemory } = profile;
    // Two panels of A and of B in f16, and one matrix of each subgroup.
    profile.maxWorkgroupMemory = 2 * 2 * (384 + 256) + 2 * 4 * 8 * 4;
    try {
      const call = {
        profile: gpu.profile,
        inputs: [meta([8, 8]), meta([8, 8])],
        outputs: [meta([8, 8])],
        attrs: {},
      };
      expect(planMatrix(call, double).passes[0].defines).toMatchObject({ DRAIN_N: 1, DRAINS: 2 });
      await compare(findOp("matmul"), sampleOf(findOp("matmul"), "edges"), double);
      profile.maxWorkgroupMemory -= 4;
      expect(tuneMatrix(call).options).not.toContain(double);
    } finally {
      profile.maxWorkgroupMemory = maxWorkgroupMemory;
    }
  });

  it("attention scales its sums down when maxima rise, and only then", async (context: TestContext) => {
    if (!able()) return context.skip("no subgroups of one size");
    emulate(square);
    // Scores grow from block to block of keys: by 20 for one query, not at all for the next.
    const [T, D] = [33, 8];
    const query = Array.from({ length: T * D }, (_, e) =>
      Math.floor(e / D) % 2 ? 0 : e % D === 0 ? 2 : 0.25,
    );
    const key = Array.from({ length: T * D }, (_, e) =>
      e % D === 0 ? 1.25 * Math.floor(e / D) : Math.sin(e),
    );
    const shape = [1, 1, T, D];
    const sample: Sample<unknown> = {
      name: "rising",
      inputs: [{ shape, values: query }, { shape, values: key }, { shape }],
      attrs: { causal: true, scale: 1, masked: false, segmented: false },
      // Scores of 80 are exact to 5e-6 only, and so are logarithms of sums of their exponentials.
      atol: 1e-4,
    };
    await compare(findOp("attention"), sample);
  });

  it("rows do not depend on how many there are", async (context: TestContext) => {
    if (!able()) return context.skip("no subgroups of one size");
    emulate(square);
    const matmul = findOp("matmul");
    const [K, N] = [300, 20];
    const values = sampleValues({ shape: [37, K] }, "f16", "rows");
    const weight = { shape: [K, N], values: sampleValues({ shape: [K, N] }, "f16", "weight") };
    const rows = (count: number) => {
      const inputs = [{ shape: [count, K], values }, weight];
      return onMatrices(matmul, { name: "rows", inputs, attrs: { batchInvariant: true } });
    };
    const [all] = await rows(37);
    for (const count of [1, 9]) expect((await rows(count))[0]).toEqual(all!.slice(0, count * N));
  });
});

const dialects = [
  { dialect: "template", vectors: null },
  { dialect: "template", vectors: { offset: 4, stride: 1 } },
  { dialect: "boolean", vectors: null },
] as const;

describe("Dawn takes", () => {
  for (const { dialect, vectors } of dialects) {
    for (const shape of realShapes) {
      const units: MatrixUnits = { dialect, vectors, shapes: [shape], refused: [] };
      const profile = gpuProfile(units);
      const title = `${dialect}${vectors ? ", vectors" : ""}, ${shape.m}x${shape.n}x${shape.k}`;

      it(`the probe: ${title}`, async () => {
        validator.pushErrorScope("validation");
        validator.createShaderModule({ code: probeSource(units, shape, 32, readKernel) });
        expect((await validator.popErrorScope())?.message).toBeUndefined();
      });

      it(`every tile of matmul: ${title}`, async () => {
        const rows = (x: number, y: number) => meta([x, y]);
        const columns = (x: number, y: number) => meta([x, y], "f16", [1, x]);
        const odd = (x: number, y: number) => meta([x, y], "f16", [y + 1, 1]);
        const layouts = [rows, columns, odd].flatMap((a) => [rows, columns, odd].map((b) => [a, b] as const));
        let tiles = 0;
        for (const [a, b] of layouts) {
          const inputs = [a(200, 300), b(300, 1200)];
          const outputs = [meta([200, 1200])];
          const call = { profile, inputs, outputs, attrs: {} };
          expect(suitsMatrix(call)).toBe(true);
          const { options } = tuneMatrix(call);
          tiles = options.length;
          // Layouts decide how panels lie, tiles how large they are: every tile in one layout, one tile in every layout.
          for (const option of a === rows && b === rows ? options : options.slice(0, 1)) {
            const plan = planMatrix(call, option);
            expect(await complaints(validator, profile, "matmul/matrix.wgsl", plan, inputs, outputs)).toEqual(
              [],
            );
          }
        }
        expect(tiles).toBeGreaterThan(5);
      });

      it(`attention of every head dimension: ${title}`, async () => {
        for (const D of [32, 64, 96, 128]) {
          const [query, key, out] = [meta([2, 4, 70, D]), meta([2, 2, 70, D]), meta([2, 70, 4, D])];
          const lse = meta([2, 4, 70], "f32");
          const attrs = { causal: true, scale: 0.1, masked: false, segmented: false };
          const forward = { profile, inputs: [query, key, key], outputs: [out, lse], attrs };
          const fits = forwardVariants.find((v) => v.when!(forward))!;
          expect(fits.name).toBe("matrix");
          const { file } = fits;
          const found = await complaints(validator, profile, file, fits.plan(forward), forward.inputs, [
            out,
            lse,
          ]);
          const inputs = [out, query, key, key, out, lse];
          const outputs = [out, meta([2, 70, 2, D]), meta([2, 70, 2, D])];
          const backward = { profile, inputs, outputs, attrs: { ...attrs, lseGrad: false } };
          const back = backwardVariants.find((v) => v.when!(backward))!;
          expect(back.name).toBe("matrix");
          found.push(
            ...(await complaints(validator, profile, back.file, back.plan(backward), inputs, outputs)),
          );
          expect(found).toEqual([]);
        }
      });
    }
  }

  it("not what is wrong in a dialect", async () => {
    const units: MatrixUnits = {
      dialect: "boolean",
      vectors: { offset: 4, stride: 1 },
      shapes: realShapes,
      refused: [],
    };
    const profile = gpuProfile(units);
    const [inputs, outputs] = [[meta([64, 64]), meta([64, 64])], [meta([64, 64])]];
    const plan = planMatrix({ profile, inputs, outputs, attrs: {} }, "128x128x32 by 4 vectors");
    expect(await complaints(validator, profile, "matmul/matrix.wgsl", plan, inputs, outputs)).not.toEqual([]);
  });
});

describe("what an adapter offers", () => {
  it("is read from its list, for f16 operands and f32 results", () => {
    const config = (M: number, N: number, K: number, componentType = "f16", resultComponentType = "f32") => ({
      M,
      N,
      K,
      componentType,
      resultComponentType,
    });
    const subgroupMatrixConfigs = [
      config(16, 8, 8),
      config(16, 16, 16, "f16", "f16"),
      config(16, 16, 16),
      config(16, 16, 32, "i8", "i32"),
    ];
    const features = new Set([matrixFeature, "shader-f16"]) as unknown as GPUSupportedFeatures;
    expect(matrixShapes({ features, info: { subgroupMatrixConfigs } })).toEqual([
      { m: 16, n: 16, k: 16 },
      { m: 16, n: 8, k: 8 },
    ]);
    const without = new Set(["shader-f16"]) as unknown as GPUSupportedFeatures;
    expect(matrixShapes({ features: without, info: { subgroupMatrixConfigs } })).toEqual([]);
    expect(matrixShapes({ features, info: {} })).toEqual([]);
  });

  it("is not used for f32, for small products, or without the feature", () => {
    const product = (profile: ReturnType<typeof gpuProfile>, M: number, dtype: "f16" | "f32", attrs = {}) =>
      suitsMatrix({
        profile,
        inputs: [meta([M, 64], dtype), meta([64, 64], dtype)],
        outputs: [meta([M, 64], dtype)],
        attrs,
      });
    const units: MatrixUnits = { dialect: "template", vectors: null, shapes: realShapes, refused: [] };
    expect(product(gpuProfile(units), 64, "f16")).toBe(true);
    expect(product(gpuProfile(units), 64, "f32")).toBe(false);
    expect(product(gpuProfile(units), 8, "f16")).toBe(false);
    // A server's rows are summed in one way, however many there are.
    expect(product(gpuProfile(units), 8, "f16", { batchInvariant: true })).toBe(true);
    expect(product(gpuProfile(null), 64, "f16")).toBe(false);
    expect(product(gpuProfile(units, { subgroupSize: 0 }), 64, "f16")).toBe(false);
  });
});

describe("the probe", () => {
  it("knows the right product, and a wrong one", async (context: TestContext) => {
    if (!able()) return context.skip("no subgroups of one size");
    const { subgroupSize } = gpu.profile;
    for (const shape of [square, oblong]) {
      for (const vectors of [null, asVectors]) {
        const probe = (read: typeof readKernel) =>
          multiplies(gpu.gpu, { dialect: "emulated", vectors }, shape, subgroupSize, read);
        expect(await probe(readKernel)).toBe(true);
        const transposed = (path: string) =>
          path.endsWith("probe.wgsl")
            ? readKernel(path).replace("load_right(", "load_right_turned(")
            : readKernel(path);
        expect(await probe(transposed)).toBe(false);
      }
    }
  });

  it("finds nothing where no dialect compiles, and where products come out wrong", async () => {
    // SwiftShader and lavapipe have no such extension; an adapter that has is asked for what it lists, as when opened.
    const shapes = gpu.matrixShapes.length > 0 ? gpu.matrixShapes : realShapes;
    const lanes = Math.max(gpu.profile.subgroupSize, 4);
    const found = await probeMatrixUnits(gpu.gpu, shapes, lanes, readKernel);
    const spelling = (units: MatrixUnits | null) => units && [units.dialect, units.shapes];
    expect(spelling(found)).toEqual(spelling(opened));
    await gpu.sync();
    // The backend that only validates takes the probe, and leaves its result zero.
    expect(await probeMatrixUnits(validator, realShapes, 128, readKernel)).toBeNull();
  });
});
