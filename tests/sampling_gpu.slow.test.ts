import { expect, it } from "vitest";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { drawAlike } from "./support/drawn_rows.ts";

it.for(["thread", "workgroup"])(
  "draws of 10,000 rows on the device what the host draws, with the worker that this adapter does not choose (%s)",
  { timeout: 900_000 },
  async (variant, { skip }) => {
    const gpu = (await openDevice()) as WebGpuDevice;
    if (variant === "thread" && gpu.profile.class === "gpu") skip("no GPU is given a row a thread");
    await expect(drawAlike(gpu, variant, 200)).resolves.toBeUndefined();
  },
);
