import type { DType } from "../../core/dtype.ts";
import { type AnyOp, findOp, type MatrixUnits } from "../../core/op.ts";
import type { Remembered } from "../../core/platform/cache_node.ts";
import { contiguousStrides, numel, type Shape } from "../../core/shape.ts";
import { Tensor, tensor } from "../../core/tensor.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import { withoutErrors } from "../../core/webgpu/error_scopes.ts";
import { emit, type LoweredCall, lower } from "../../core/webgpu/lowering.ts";
import { matrixEnable, probeMatrixUnits } from "../../core/webgpu/matrix_units.ts";
import { debugLevel } from "../../core/webgpu/pipelines.ts";
import { tiles as attentionTiles, matrixHeads } from "../attention/matrix.ts";
import { moreTiles, tiles as productTiles } from "../matmul/matrix.ts";
import { readKernel } from "../sources.ts";

/** A small call on which a kernel for matrix units must agree with one that does without. */
export interface MatrixTrial {
  /** Name added to `MatrixUnits.refused` on failure. */
  name: string;
  op: AnyOp;
  inputs: readonly { shape: Shape; transposed?: boolean; dtype?: DType }[];
  attrs: unknown;
  /** The variant that is trusted. */
  trusted: string;
  option?: string;
}

/** What f16 results may differ by: the op's tolerance for f16. */
const tolerance = 4e-3;

/**
 * Finds out which kernels for matrix units this device may use, and sets `profile.matrix`: a dialect that compiles, shapes
 * and kernels that come out right. The verdict is kept in the user's cache, for this adapter, driver, Dawn and sources.
 */
export async function openMatrixUnits(device: WebGpuDevice): Promise<void> {
  const { gpu, matrixShapes, profile } = device;
  if (matrixShapes.length === 0) return;
  const store = await verdictStore(device);
  const kept = store?.load();
  if (kept) profile.matrix = kept.units;
  else {
    const found = await probeMatrixUnits(gpu, matrixShapes, profile.subgroupSize, readKernel);
    profile.matrix = found && (await tried(device, found));
    store?.save({ units: profile.matrix });
  }
  if (debugLevel() >= 1) console.error(`matrix units: ${describeMatrixUnits(profile.matrix)}`);
}

/** Tries every kernel. If some fail with vector loads, retries with scalar loads and keeps whichever fails less. */
async function tried(device: WebGpuDevice, units: MatrixUnits): Promise<MatrixUnits> {
  device.profile.matrix = units;
  await tryKernels(device, units, trialsOf(device));
  if (!units.vectors || units.refused.length === 0) return units;
  const scalar: MatrixUnits = { ...units, vectors: null, refused: [] };
  device.profile.matrix = scalar;
  await tryKernels(device, scalar, trialsOf(device));
  return scalar.refused.length < units.refused.length ? scalar : units;
}

/** One line for people. */
export function describeMatrixUnits(units: MatrixUnits | null): string {
  if (!units) return "not used (no feature, or no dialect of it that computes rightly)";
  const shapes = units.shapes.map(({ m, n, k }) => `${m}x${n}x${k}`).join(", ");
  const refused =
    units.refused.length > 0 ? `; wrong or not compiling, not used: ${units.refused.join(", ")}` : "";
  return `${shapes} f16 to f32, ${units.dialect} dialect${units.vectors ? ", vector loads" : ""}${refused}`;
}

async function verdictStore(device: WebGpuDevice): Promise<Remembered<{ units: MatrixUnits | null }> | null> {
  if (typeof process === "undefined" || !process.versions?.node) return null;
  const { remembered } = await import("../../core/platform/cache_node.ts");
  const { webgpuVersion } = await import("../../core/platform/adapter_node.ts");
  // What the kernels are made from: a change in any of it asks for a new verdict.
  const parts = [matrixEnable, ...sources.map(readKernel), productTiles, moreTiles, attentionTiles];
  const text = new TextEncoder().encode(JSON.stringify(parts));
  const digest = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", text))).join();
  const { description, matrixShapes } = device;
  const subject = { version: 1, webgpu: webgpuVersion(), digest, matrixShapes, ...description };
  return remembered("matrix", JSON.stringify(subject));
}

const sources = [
  "matrix_units/probe.wgsl",
  "matrix_units/units.wgsl",
  "matmul/matrix.wgsl",
  "matmul/operands.wgsl",
  "matmul/epilogue.wgsl",
  "attention/layout.wgsl",
  "attention/matrix.wgsl",
  "attention/matrix_backward.wgsl",
  "attention/matrix_layout.wgsl",
];

/** Every tile of matmul with operands in rows, in columns and unaligned, and attention for every head dimension. */
function trialsOf(device: WebGpuDevice): MatrixTrial[] {
  const matmul = findOp("matmul");
  const half = (shape: Shape) => ({
    shape,
    dtype: "f16" as const,
    strides: contiguousStrides(shape),
    offset: 0,
  });
  const variant = matmul.variants.find((v) => v.name === "matrix")!;
  const call = {
    profile: device.profile,
    inputs: [half([256, 64]), half([64, 256])],
    outputs: [half([256, 256])],
  };
  const options = variant.when!({ ...call, attrs: {} as never })
    ? variant.tune!({ ...call, attrs: {} as never })!.options
    : [];
  // Aligned and not, with and without an edge of K, larger than the largest tile in either direction.
  const layouts = [
    { M: 140, K: 64, N: 132, a: false, b: false },
    { M: 140, K: 100, N: 264, a: false, b: true },
    { M: 132, K: 68, N: 132, a: true, b: false },
    { M: 132, K: 64, N: 140, a: true, b: true },
    { M: 35, K: 101, N: 39, a: false, b: false },
    { M: 35, K: 1101, N: 39, a: true, b: true },
  ];
  const products = options.flatMap((option) =>
    layouts.map(({ M, K, N, a, b }): MatrixTrial => {
      const inputs = [{ shape: [M, K], transposed: a }, { shape: [K, N], transposed: b }, { shape: [N] }];
      return {
        name: `matmul ${option}`,
        op: matmul,
        inputs,
        attrs: { bias: true },
        trusted: "tiled",
        option,
      };
    }),
  );
  return [...products, ...matrixHeads.flatMap(attentionTrials)];
}

function attentionTrials(dim: number): MatrixTrial[] {
  const [T, heads] = [137, 2];
  const segments: TensorInput = { shape: [1, T], dtype: "i32" };
  const query = { shape: [1, heads, T, dim] };
  const key = { shape: [1, 1, T, dim] };
  const out = { shape: [1, T, heads, dim] };
  const lse: TensorInput = { shape: [1, heads, T], dtype: "f32" };
  const attrs = { causal: true, scale: 1 / Math.sqrt(dim), masked: false, segmented: false };
  const shared = { trusted: "plain" };
  const forward = { name: `attention ${dim}`, op: findOp("attention"), ...shared };
  // Scores so far apart that sums are scaled down on the way; and packed rows, which is what training takes.
  const steep = { ...attrs, scale: 96 / Math.sqrt(dim) };
  return [
    { ...forward, inputs: [query, key, key], attrs },
    { ...forward, inputs: [query, key, key], attrs: steep },
    { ...forward, inputs: [query, key, key, segments], attrs: { ...steep, segmented: true } },
    {
      name: `attention_backward ${dim}`,
      op: findOp("attention_backward"),
      inputs: [out, query, key, key, out, lse],
      attrs: { ...attrs, lseGrad: false },
      ...shared,
    },
    {
      name: `attention_backward ${dim}`,
      op: findOp("attention_backward"),
      inputs: [out, query, key, key, out, lse, segments],
      attrs: { ...attrs, segmented: true, lseGrad: false },
      ...shared,
    },
  ];
}

/** A trial's tensors, and how either variant runs on them. */
interface Prepared {
  trial: MatrixTrial;
  inputs: Tensor[];
  outputs: Tensor[];
  trusted: LoweredCall;
  tried: LoweredCall;
}

/** Runs the trials and adds the names of those that fail to `units.refused`. */
export async function tryKernels(
  device: WebGpuDevice,
  units: MatrixUnits,
  trials: readonly MatrixTrial[],
): Promise<void> {
  const prepared: Prepared[] = [];
  const { tuner } = device;
  const { measures } = tuner;
  tuner.measures = false; // nobody wants the trusted kernels of these sizes to be quick
  // Compiled side by side; what does not compile shows again below, where its errors are caught by themselves.
  await withoutErrors(device.gpu, async () => {
    for (const trial of trials) prepared.push(...prepareTrial(device, trial));
    await device.pipelines.warm().catch(() => {});
  });
  tuner.measures = measures;
  for (const work of prepared) {
    const { name } = work.trial;
    if (units.refused.includes(name)) continue;
    let worst = Number.NaN;
    const clean = await withoutErrors(device.gpu, async () => {
      worst = await difference(device, work);
    });
    if (debugLevel() >= 2) console.error(`matrix trial ${name}: ${worst.toFixed(3)} of the tolerance`);
    if (!clean || !(worst <= 1)) units.refused.push(name);
  }
  for (const { inputs, outputs } of prepared) for (const t of [...inputs, ...outputs]) t.storage.free();
  device.forgetLowered();
}

/** Empty where no kernel for matrix units takes the call: nobody will use one for it then. */
function prepareTrial(device: WebGpuDevice, trial: MatrixTrial): Prepared[] {
  const { op, attrs, option, trusted } = trial;
  const inputs = trial.inputs.map((input, i) => filled(device, input, i));
  const outputs = op.infer(inputs, attrs as never).map(({ shape, dtype }) => {
    return new Tensor(device.allocate(dtype, numel(shape)), shape);
  });
  const call = { profile: device.profile, inputs, outputs, attrs: attrs as never };
  if (!op.variants.find((v) => v.name === "matrix")?.when?.(call)) return [];
  const lowered = (forced: string) =>
    lower(device, op, inputs, attrs, outputs, { forced, ...(forced === "matrix" && option && { option }) });
  return [{ trial, inputs, outputs, trusted: lowered(trusted), tried: lowered("matrix") }];
}

/**
 * Values in [-0.5, 0.5] without a pattern that a wrong index could repeat; lse, the only f32, above what scores reach;
 * segments, the only i32, of 50 tokens.
 */
function filled(
  device: WebGpuDevice,
  { shape, transposed, dtype = "f16" }: TensorInput,
  seed: number,
): Tensor {
  const base = dtype === "f32" ? 4 : 0;
  const element = (i: number) =>
    dtype === "i32" ? Math.floor(i / 50) : base + 0.5 * Math.sin(1 + seed + i * 12.9898 + (i % 7));
  const values = Array.from({ length: numel(shape) }, (_, i) => element(i));
  const flat = tensor(values, shape, dtype, device);
  return transposed ? flat.asStrided(shape, [1, shape[0]], 0) : flat;
}

type TensorInput = MatrixTrial["inputs"][number];

/** The largest difference between both variants, in units of the tolerance. */
async function difference(device: WebGpuDevice, work: Prepared): Promise<number> {
  const { trial, inputs, outputs, trusted, tried } = work;
  const run = async (call: LoweredCall) => {
    // What an earlier kernel left must not pass for the result of this one.
    for (const { storage, size } of outputs)
      device.write(storage, new Float32Array(size).fill(Number.NaN), 0);
    emit(device, call, trial.op, inputs, trial.attrs, outputs);
    return Promise.all(outputs.map((t) => t.data()));
  };
  const expected = await run(trusted);
  const actual = await run(tried);
  let worst = 0;
  for (const [i, values] of expected.entries()) {
    values.forEach((value, j) => {
      // NaN must win: Math.max keeps it, a comparison would drop it.
      worst = Math.max(worst, Math.abs(actual[i][j] - value) / (tolerance * (1 + Math.abs(value))));
    });
  }
  return worst;
}
