import { grads } from "../../core/autograd.ts";
import { type Device, withDevice } from "../../core/device.ts";
import { type DType, fromHalf, isFloat, toHalf } from "../../core/dtype.ts";
import { type AnyOp, mutatedInputs, type Op, type Sample, type SampleInput } from "../../core/op.ts";
import { contiguousStrides, numel, type Shape } from "../../core/shape.ts";
import { apply, Tensor, tensor } from "../../core/tensor.ts";

/** A small seeded generator (mulberry32): sample values are the same on every machine. */
export function generator(seedText: string): () => number {
  let state = 2166136261;
  for (const c of seedText) state = Math.imul(state ^ c.charCodeAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Row-major values of a sample input, representable in its dtype. */
export function sampleValues(input: SampleInput, dtype: DType, seed: string): number[] {
  const count = numel(input.shape);
  const float = isFloat(dtype);
  const half = (v: number) => fromHalf(toHalf(v));
  const round = dtype === "f16" ? half : float ? Math.fround : (v: number) => v;
  if (input.values)
    return Array.from({ length: count }, (_, i) => round(input.values![i % input.values!.length]));
  const next = generator(seed);
  const [low, high] = input.range ?? (float ? [-2, 2] : [0, 1]);
  return Array.from({ length: count }, () =>
    float ? round(low + next() * (high - low)) : Math.floor(low + next() * (high - low + 1)),
  );
}

/** A tensor on `device` that holds `values` (row-major) in the memory layout that the sample asks for. */
export function place(device: Device, input: SampleInput, dtype: DType, values: readonly number[]): Tensor {
  const { shape, layout = "contiguous" } = input;
  const rank = shape.length;
  if (layout === "contiguous" || rank === 0 || numel(shape) === 0)
    return tensor(values, shape, dtype, device);
  const strides =
    layout === "transposed" && rank >= 2
      ? transposedStrides(shape)
      : contiguousStrides(shape).map((s) => s * 2);
  const room = shape.reduce((top, extent, i) => top + (extent - 1) * strides[i], 1);
  const memory = new Array<number>(room).fill(7);
  const plain = contiguousStrides(shape);
  values.forEach((value, i) => {
    let cell = 0;
    shape.forEach((extent, axis) => {
      cell += (Math.floor(i / plain[axis]) % extent) * strides[axis];
    });
    memory[cell] = value;
  });
  return new Tensor(tensor(memory, [room], dtype, device).storage, shape, strides, 0);
}

function transposedStrides(shape: Shape): number[] {
  const swapped = [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
  const strides = contiguousStrides(swapped);
  return [...strides.slice(0, -2), strides.at(-1)!, strides.at(-2)!];
}

/** The op's inputs of a sample on a device; f32 inputs become `floatType`. */
export function sampleInputs(
  device: Device,
  op: AnyOp,
  sample: Sample<unknown>,
  floatType: DType = "f32",
): Tensor[] {
  return sample.inputs.map((input, i) => {
    const dtype = input.dtype ?? floatType;
    return place(device, input, dtype, sampleValues(input, dtype, `${op.name}/${sample.name}/${i}`));
  });
}

/** Runs the op and returns the values of its outputs, then of the inputs that it updates in place. */
export async function runSample(
  device: Device,
  op: AnyOp,
  inputs: Tensor[],
  attrs: unknown,
): Promise<number[][]> {
  const outputs = withDevice(device, () => apply(op as unknown as Op<unknown>, inputs, attrs));
  const changed = mutatedInputs(op, inputs.length).map((i) => inputs[i]);
  return Promise.all([...outputs, ...changed].map(async (t) => Array.from(await t.data())));
}

/** Cotangents for the float outputs, seeded; and the derivative of sum(output * cotangent) for each float input. */
export function sampleGradients(
  device: Device,
  op: AnyOp,
  sample: Sample<unknown>,
  inputs: Tensor[],
): { outputs: Tensor[]; gradients: (Tensor | null)[] } {
  return withDevice(device, () => {
    for (const t of inputs) if (isFloat(t.dtype)) t.requireGrad();
    const outputs = apply(op as unknown as Op<unknown>, inputs, sample.attrs).filter((t) => t.node);
    const cotangents = outputs.map((t, i) => cotangent(device, op, sample, t, i));
    const found = grads(
      outputs,
      inputs.filter((t) => t.requiresGrad),
      { cotangents },
    );
    return { outputs, gradients: inputs.map((t) => (t.requiresGrad ? found.shift()! : null)) };
  });
}

export function cotangent(device: Device, op: AnyOp, sample: Sample<unknown>, t: Tensor, i: number): Tensor {
  const values = sampleValues({ shape: t.shape }, "f32", `${op.name}/${sample.name}/cotangent${i}`);
  return tensor(values, t.shape, t.dtype, device);
}

/** Largest |a - b| / (atol + rtol |b|); NaN matches NaN and infinities match themselves. */
export function worstRatio(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  atol: number,
  rtol: number,
): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i];
    const b = expected[i];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const ratio = Math.abs(a - b) / (atol + rtol * Math.abs(b));
    if (!(ratio <= worst)) worst = Number.isNaN(ratio) ? Number.POSITIVE_INFINITY : ratio;
  }
  return worst;
}
