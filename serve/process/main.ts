import { lostError } from "../../core/webgpu/device.ts";
import { openOnce } from "../../kernels/index.ts";
import { loadInto } from "../loading.ts";
import { runHost } from "./host.ts";

/** Opens this machine's device. */
export async function openGpu(onLost: (error: Error) => void): Promise<void> {
  const { gpu } = await openOnce();
  void gpu.lost.then(({ reason, message }) => onLost(lostError(reason, message)));
}

/** Runs engines on this machine's device, at the orders of the parent process. */
export const run = () => runHost({ open: openGpu, load: loadInto });
