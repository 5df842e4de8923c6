import { setDevice } from "../core/device.ts";
import type { AdapterOptions } from "../core/platform/adapter.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { openWebGpu, type WebGpuDevice } from "../core/webgpu/device.ts";
import { openMatrixUnits } from "./matrix_units/trials.ts";
import { rewrites } from "./rewrites.ts";
import { readKernel } from "./sources.ts";

/** Opens this machine's WebGPU adapter and makes it the device of new tensors. */
export async function openDevice(options: AdapterOptions = {}): Promise<WebGpuDevice> {
  const device = await openWebGpu(readKernel, options);
  device.rewrites = rewrites;
  await openMatrixUnits(device);
  return device;
}

/** Makes a float64 oracle device the device of new tensors. */
export function openReference(): ReferenceDevice {
  const device = new ReferenceDevice();
  setDevice(device);
  return device;
}

let opened: Promise<WebGpuDevice> | null = null;

/** The device of this process, opened once. */
export function openOnce(): Promise<WebGpuDevice> {
  opened ??= openDevice();
  return opened;
}
