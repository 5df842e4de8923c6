import type { DType } from "../../core/dtype.ts";
import type { DeviceProfile, Lowering, MatrixShape, MatrixUnits, Pass, TensorMeta } from "../../core/op.ts";
import { createGpu } from "../../core/platform/adapter_node.ts";
import { contiguousStrides, type Shape } from "../../core/shape.ts";
import { matrixFeature } from "../../core/webgpu/matrix_units.ts";
import { Pipelines } from "../../core/webgpu/pipelines.ts";
import { readKernel } from "../../kernels/sources.ts";

/** Dawn's backend that runs nothing but validates everything, experimental features included. */
export async function nullDevice(): Promise<GPUDevice> {
  const gpu = await createGpu(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
  pinned.push(gpu);
  const adapter = (await gpu.requestAdapter())!;
  const requiredFeatures = ["shader-f16", "subgroups", matrixFeature] as GPUFeatureName[];
  return adapter.requestDevice({ requiredFeatures });
}

/** Dawn crashes when the object that created a device is collected. */
const pinned: GPU[] = [];

/** A large GPU with these matrix units; its limits are an NVIDIA H200's. */
export function gpuProfile(matrix: MatrixUnits | null, rest: Partial<DeviceProfile> = {}): DeviceProfile {
  return {
    class: "gpu",
    name: "a GPU of tests",
    f16: true,
    subgroupSize: 32,
    maxWorkgroupSize: 1024,
    maxWorkgroupMemory: 49152,
    maxBindingBytes: 2 ** 31,
    maxStorageBuffers: 16,
    maxGridExtent: 65535,
    matrix,
    ...rest,
  };
}

export function meta(shape: Shape, dtype: DType = "f16", strides = contiguousStrides(shape)): TensorMeta {
  return { shape, dtype, strides, offset: 0 };
}

/** Whether Dawn's error only says what this backend lacks: its workgroups hold 16 KiB, its subgroups may be 128 wide. */
function beyondIt(message: string, { maxWorkgroupMemory }: DeviceProfile): boolean {
  const bytes = /workgroup storage \((\d+) bytes\) is larger than/.exec(message)?.[1];
  return bytes
    ? Number(bytes) <= maxWorkgroupMemory
    : message.includes("multiple of the device maxSubgroupSize");
}

/** What Dawn says against the kernels of a plan; empty where it takes them. */
export async function complaints(
  gpu: GPUDevice,
  profile: DeviceProfile,
  file: string,
  plan: Pass | Lowering,
  inputs: readonly TensorMeta[],
  outputs: readonly TensorMeta[],
): Promise<string[]> {
  const pipelines = new Pipelines(gpu, profile, readKernel);
  const found: string[] = [];
  for (const pass of "passes" in plan ? plan.passes : [plan]) {
    gpu.pushErrorScope("validation");
    const dtypes = (list: readonly TensorMeta[]) => list.map((t) => t.dtype);
    const kernel = pipelines.get(pass.file ?? file, pass.defines ?? {}, dtypes(inputs), dtypes(outputs));
    void kernel.pipeline;
    const error = await gpu.popErrorScope();
    if (error && !beyondIt(error.message, profile)) found.push(error.message);
  }
  return found;
}

/** Shapes that real adapters list: NVIDIA's, and Apple's. */
export const realShapes: MatrixShape[] = [
  { m: 16, n: 16, k: 16 },
  { m: 16, n: 8, k: 16 },
  { m: 16, n: 8, k: 8 },
  { m: 8, n: 8, k: 8 },
];
