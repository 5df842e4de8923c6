import { setDevice } from "../../core/device.ts";
import { type AnyOp, registeredOps, type Sample } from "../../core/op.ts";
import { type AdapterDescription, describe } from "../../core/platform/adapter.ts";
import { ReferenceDevice } from "../../core/reference_device.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import { openDevice } from "../../kernels/index.ts";
import { runSample, sampleGradients, sampleInputs, worstRatio } from "../support/ops_harness.ts";
import { type Progress, trainTinyLlama } from "./lesson.ts";

/** What runs inside the page: the bundle's exports, called from the test. */

const reference = new ReferenceDevice();
let opened: Promise<WebGpuDevice> | null = null;

function open(): Promise<WebGpuDevice> {
  opened ??= openDevice();
  return opened;
}

export async function adapter(): Promise<AdapterDescription & { line: string }> {
  const { description } = await open();
  return { ...description, line: describe(description) };
}

export interface OpReport {
  ops: number;
  samples: number;
  gradients: number;
  /** One line for each sample that is wrong or throws. */
  failures: string[];
}

/**
 * Ops of the registry on the page's device against float64: the first `count` samples of each with the kernel that the
 * device chooses, on poisoned memory, and the gradient of the first that has one.
 */
export async function checkOps(count: number): Promise<OpReport> {
  const gpu = await open();
  gpu.poison = true;
  const report: OpReport = { ops: 0, samples: 0, gradients: 0, failures: [] };
  for (const op of registeredOps().values()) {
    const samples = (op.samples() as unknown as Sample<unknown>[]).slice(0, count);
    report.ops++;
    for (const sample of samples) {
      report.samples++;
      await noting(report, `${op.name}/${sample.name}`, () => checkForward(gpu, op, sample));
    }
    const smooth = op.gradient && samples.find((sample) => sample.gradcheck !== false);
    if (!smooth) continue;
    report.gradients++;
    await noting(report, `${op.name}/${smooth.name} gradient`, () => checkGradient(gpu, op, smooth));
  }
  gpu.poison = false;
  return report;
}

async function noting(report: OpReport, what: string, check: () => Promise<number>): Promise<void> {
  try {
    const ratio = await check();
    if (!(ratio <= 1)) report.failures.push(`${what}: ${ratio} times the tolerance`);
  } catch (error) {
    report.failures.push(`${what}: ${error}`);
  }
}

/** The largest error in units of the tolerance. */
async function checkForward(gpu: WebGpuDevice, op: AnyOp, sample: Sample<unknown>): Promise<number> {
  const { atol = 1e-5, rtol = 1e-4 } = sample;
  const expected = await runSample(reference, op, sampleInputs(reference, op, sample), sample.attrs);
  const actual = await runSample(gpu, op, sampleInputs(gpu, op, sample), sample.attrs);
  return Math.max(...expected.map((values, i) => worstRatio(actual[i], values, atol, rtol)));
}

async function checkGradient(gpu: WebGpuDevice, op: AnyOp, sample: Sample<unknown>): Promise<number> {
  const { atol = 1e-5, rtol = 1e-4 } = sample;
  const expected = sampleGradients(reference, op, sample, sampleInputs(reference, op, sample)).gradients;
  const actual = sampleGradients(gpu, op, sample, sampleInputs(gpu, op, sample)).gradients;
  let worst = 0;
  for (const [i, gradient] of expected.entries()) {
    if ((actual[i] === null) !== (gradient === null)) return Number.POSITIVE_INFINITY;
    if (!gradient) continue;
    const ratio = worstRatio(await actual[i]!.data(), await gradient.data(), atol * 10, rtol * 5);
    worst = Math.max(worst, ratio);
  }
  return worst;
}

/** The losses of the tiny Llama on the page's device. */
export async function train(): Promise<Progress[]> {
  setDevice(await open());
  return trainTinyLlama();
}
