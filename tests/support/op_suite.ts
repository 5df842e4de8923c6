import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../../core/autograd.ts";
import { compile } from "../../core/compile.ts";
import { setDevice, withDevice } from "../../core/device.ts";
import { isFloat } from "../../core/dtype.ts";
import { type AnyOp, mutatedInputs, type Op, registeredOps, type Sample } from "../../core/op.ts";
import { ReferenceDevice } from "../../core/reference_device.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import { openDevice } from "../../kernels/index.ts";
import { cotangent, generator, runSample, sampleGradients, sampleInputs, worstRatio } from "./ops_harness.ts";
import { specialsEqualReference } from "./special_values.ts";

const reference = new ReferenceDevice();
let gpu: WebGpuDevice;
// Another adapter has run all of it: each sample by turns in one type. Whole: `KILN_ADAPTER=lavapipe npm test -- tests/ops.test.ts`.
const isSecond = process.env.KILN_SECOND_ADAPTER === "1";

/**
 * The registered ops that `isIncluded` takes: each variant against the float64 reference with poisoned outputs, f16, the
 * gradient by finite differences in float64 and on the adapter, second order, the same bits twice, eager = compiled.
 */
export function testOps(isIncluded: (name: string) => boolean): void {
  beforeAll(async () => {
    gpu = await openDevice();
    gpu.poison = true;
  });
  afterAll(() => setDevice(null));
  for (const op of registeredOps().values()) if (isIncluded(op.name)) describe(op.name, () => testOp(op));
}

function testOp(op: AnyOp): void {
  const samples = op.samples() as unknown as Sample<unknown>[];
  it("has samples and a description", () => {
    expect(samples.length).toBeGreaterThan(0);
    expect(op.doc.length).toBeGreaterThan(10);
    expect(new Set(samples.map((s) => s.name)).size).toBe(samples.length);
  });
  for (const sample of samples) {
    it(`${sample.name}: every variant equals the reference`, () => everyVariant(op, sample));
    it(`${sample.name}: NaN, infinities and signed zeros`, () => everySpecial(op, sample));
    if (op.gradient && sample.gradcheck !== false) {
      it(`${sample.name}: gradient on the adapter`, () => adapterGradient(op, sample));
      if (isSecond) continue;
      it(`${sample.name}: gradient equals finite differences`, () => gradcheck(op, sample));
      if (op.secondOrder) it(`${sample.name}: second derivatives`, () => secondOrder(op, sample));
    }
  }
  const first = samples.find((s) => s.inputs.length > 0);
  if (first) it(`${first.name}: compiled equals eager, twice`, () => compiledEqualsEager(op, first));
}

/** The variants whose `when` holds; forcing one makes the device use it or fail. */
async function everyVariant(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  const { atol = 1e-5, rtol = 1e-4 } = sample;
  let ran = 0;
  for (const floatType of floatTypes(op, sample)) {
    const expected = await runSample(
      reference,
      op,
      sampleInputs(reference, op, sample, floatType),
      sample.attrs,
    );
    for (const variant of op.variants) {
      const took = await forced(op, variant.name, async () => {
        const twice: number[][][] = [];
        for (let run = 0; run < 2; run++) {
          twice.push(await runSample(gpu, op, sampleInputs(gpu, op, sample, floatType), sample.attrs));
        }
        expected.forEach((values, i) => {
          const loose = floatType === "f16" ? [Math.max(atol, 4e-3), Math.max(rtol, 4e-3)] : [atol, rtol];
          const ratio = worstRatio(twice[0][i], values, loose[0], loose[1]);
          expect(
            ratio,
            `${variant.name} ${floatType}, result ${i}: error over tolerance`,
          ).toBeLessThanOrEqual(1);
          expect(twice[1][i], `${variant.name} ${floatType}: the same bits again`).toEqual(twice[0][i]);
        });
      });
      if (took) ran++;
    }
  }
  expect(ran, "variants that took the sample").toBeGreaterThan(0);
}

/** Every variant on special values. */
async function everySpecial(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  for (const floatType of floatTypes(op, sample)) {
    for (const variant of op.variants) {
      await forced(op, variant.name, () => specialsEqualReference({ reference, gpu }, op, sample, floatType));
    }
  }
}

/** Runs with one variant; false where it does not take the call, which it says through `when`. */
async function forced(op: AnyOp, variant: string, run: () => Promise<void>): Promise<boolean> {
  gpu.forcedVariant.set(op.name, variant);
  try {
    await run();
    return true;
  } catch (error) {
    if (!(error as Error).message.includes("no kernel variant can run this call")) throw error;
    return false;
  } finally {
    gpu.forcedVariant.delete(op.name);
  }
}

function floatTypes(op: AnyOp, sample: Sample<unknown>): ("f32" | "f16")[] {
  const one = op.f16 === false || !gpu.profile.f16 || !sample.inputs.some((i) => !i.dtype);
  if (one) return ["f32"];
  const turn = op.samples().findIndex(({ name }) => name === sample.name);
  return isSecond && turn > 0 ? [turn % 2 ? "f16" : "f32"] : ["f32", "f16"];
}

/** Central differences of sum(output * cotangent) in float64, on at most 24 cells an input. */
async function gradcheck(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  const inputs = sampleInputs(reference, op, sample);
  const { gradients } = sampleGradients(reference, op, sample, inputs);
  const loss = () => lossOf(op, sample, inputs);
  for (const [i, input] of inputs.entries()) {
    if (!isFloat(input.dtype)) continue;
    await compareWithDifferences(`${op.name} input ${i}`, input, gradients[i] ?? null, loss);
  }
}

async function lossOf(op: AnyOp, sample: Sample<unknown>, inputs: Tensor[]): Promise<number> {
  const outputs = withDevice(reference, () =>
    apply(
      op as unknown as Op<unknown>,
      inputs.map((t) => t.detach()),
      sample.attrs,
    ),
  ).filter((t) => isFloat(t.dtype));
  let sum = 0;
  for (const [i, t] of outputs.entries()) {
    const weights = await cotangent(reference, op, sample, t, i).data();
    (await t.data()).forEach((v, k) => {
      sum += v * weights[k];
    });
  }
  return sum;
}

async function compareWithDifferences(
  what: string,
  input: Tensor,
  gradient: Tensor | null,
  loss: () => Promise<number>,
): Promise<void> {
  const memory = input.storage.handle as Float64Array;
  const analytic = gradient ? await gradient.data() : null;
  const next = generator(what);
  const random = () => Array.from({ length: 24 }, () => Math.floor(next() * input.size));
  const cells = input.size <= 24 ? [...Array(input.size).keys()] : random();
  for (const i of cells) {
    const cell = cellOf(input, i);
    const before = memory[cell];
    const h = 1e-5 * Math.max(1, Math.abs(before));
    memory[cell] = before + h;
    const up = await loss();
    memory[cell] = before - h;
    const down = await loss();
    memory[cell] = before;
    const numeric = (up - down) / (2 * h);
    const given = analytic ? analytic[i] : 0;
    expect(
      Math.abs(given - numeric),
      `${what}[${i}]: gradient ${given}, difference ${numeric}`,
    ).toBeLessThanOrEqual(1e-6 + 1e-5 * Math.max(Math.abs(numeric), 1));
  }
}

function cellOf(t: Tensor, i: number): number {
  let rest = i;
  let cell = t.offset;
  for (let axis = t.rank - 1; axis >= 0; axis--) {
    cell += (rest % t.shape[axis]) * t.strides[axis];
    rest = Math.floor(rest / t.shape[axis]);
  }
  return cell;
}

async function adapterGradient(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  const { atol = 1e-5, rtol = 1e-4 } = sample;
  const expected = sampleGradients(reference, op, sample, sampleInputs(reference, op, sample)).gradients;
  const actual = sampleGradients(gpu, op, sample, sampleInputs(gpu, op, sample)).gradients;
  for (const [i, e] of expected.entries()) {
    expect(actual[i] === null, `input ${i} has a gradient on one device only`).toBe(e === null);
    if (!e) continue;
    const ratio = worstRatio(await actual[i]!.data(), await e.data(), atol * 10, rtol * 5);
    expect(ratio, `gradient of input ${i}: error over tolerance`).toBeLessThanOrEqual(1);
  }
}

/** Differences of g(x) = sum(gradient * fixed weights) against its own derivative. */
async function secondOrder(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  const inputs = sampleInputs(reference, op, sample);
  const floats = inputs.filter((t) => isFloat(t.dtype));
  const firstOrder = (createGraph: boolean, given: Tensor[]) =>
    withDevice(reference, () => {
      for (const t of given) if (isFloat(t.dtype)) t.requireGrad();
      const outputs = apply(op as unknown as Op<unknown>, given, sample.attrs).filter((t) => t.node);
      const cotangents = outputs.map((t, i) => cotangent(reference, op, sample, t, i));
      return grads(
        outputs,
        given.filter((t) => isFloat(t.dtype)),
        { cotangents, createGraph },
      );
    });
  // A gradient without a history is differentiated as a constant, and must then be one.
  const first = firstOrder(true, inputs).filter((g) => g !== null);
  const used = first.filter((g) => g.node);
  const weightsOf = (g: Tensor, k: number) =>
    cotangent(reference, op, { ...sample, name: `${sample.name}/second` }, g, k);
  const cotangents = first.flatMap((g, k) => (g.node ? [weightsOf(g, k)] : []));
  const second = withDevice(reference, () => grads(used, floats, { cotangents }));
  const loss = async () => {
    const again = firstOrder(
      false,
      inputs.map((t) => t.detach()),
    );
    let sum = 0;
    for (const [k, g] of again.filter((g) => g !== null).entries()) {
      const weights = await weightsOf(g, k).data();
      (await g.data()).forEach((v, c) => {
        sum += v * weights[c];
      });
    }
    return sum;
  };
  for (const [i, input] of floats.entries()) {
    await compareWithDifferences(`second order, input ${i}`, input, second[i] ?? null, loss);
  }
}

async function compiledEqualsEager(op: AnyOp, sample: Sample<unknown>): Promise<void> {
  const inputs = sampleInputs(gpu, op, sample);
  if (mutatedInputs(op, inputs.length).length > 0) return;
  const eager = await runSample(gpu, op, inputs, sample.attrs);
  const step = compile((...given: Tensor[]) => apply(op as unknown as Op<unknown>, given, sample.attrs));
  for (let run = 0; run < 2; run++) {
    const outputs = withDevice(gpu, () => step(...inputs));
    const values = await Promise.all(outputs.map(async (t) => Array.from(await t.data())));
    expect(values, `run ${run + 1}`).toEqual(eager);
  }
}
