import { device, scope } from "./device.ts";
import type { Tensor } from "./tensor.ts";
import { WebGpuDevice } from "./webgpu/device.ts";
import { Plan } from "./webgpu/plan.ts";

/**
 * `step`, traced once and replayed: the first call with a new signature (shapes and dtypes of its arguments) records
 * the step's calls, fuses and plans them; every call then replays a flat list of dispatches.
 *
 * The step takes tensors and returns tensors (or arrays or plain objects of them). What it captures (parameters,
 * optimizer state) is read and updated in place. Numbers that change from step to step must be arguments or captured
 * one-element tensors: a JavaScript number is frozen into the plan. Reading a value inside the step throws.
 */
export function compile<A extends Tensor[], R>(step: (...args: A) => R): (...args: A) => R {
  const plans = new Map<string, Plan<R>>();
  return (...args) => {
    const on = args[0]?.device ?? device();
    if (!(on instanceof WebGpuDevice)) return scope(() => step(...args));
    const signature = args.map((t) => `${t.dtype}[${t.shape}]`).join();
    let plan = plans.get(signature);
    if (!plan) {
      plan = new Plan(on, step as (...args: Tensor[]) => R, args);
      plans.set(signature, plan);
    }
    return plan.replay(args);
  };
}
