import { device, scope } from "./device.ts";
import type { Tensor } from "./tensor.ts";
import { WebGpuDevice } from "./webgpu/device.ts";
import { Plan } from "./webgpu/plan.ts";

/** A compiled step; see `compile`. */
export interface Compiled<A extends Tensor[], R> {
  (...args: A): R;
  /**
   * Traces and plans the step for arguments of this signature, measures what has a choice of kernels (see `Tuner`) and
   * compiles the kernels side by side, without running the step: the first call is then as quick as the others. Only shapes and dtypes of the arguments are used.
   *
   * @throws KilnError `webgpu_error` where a kernel does not compile
   */
  prepare(...args: A): Promise<void>;
}

/**
 * `step`, traced once and replayed: the first call with a new signature (shapes and dtypes of its arguments) records
 * the step's calls, fuses and plans them; every call then replays a flat list of dispatches.
 *
 * The step takes tensors and returns tensors (or arrays or plain objects of them). What it captures (parameters,
 * optimizer state) is read and updated in place. Numbers that change from step to step must be arguments or captured
 * one-element tensors: a JavaScript number is frozen into the plan. Reading a value inside the step throws.
 */
export function compile<A extends Tensor[], R>(step: (...args: A) => R): Compiled<A, R> {
  const plans = new Map<string, Plan<R>>();
  const signatureOf = (args: A) => args.map((t) => `${t.dtype}[${t.shape}]`).join();
  const planOf = (on: WebGpuDevice, args: A) => {
    const signature = signatureOf(args);
    let plan = plans.get(signature);
    if (!plan) {
      plan = new Plan(on, step as (...args: Tensor[]) => R, args);
      plans.set(signature, plan);
    }
    return plan;
  };
  const run = (...args: A) => {
    const on = args[0]?.device ?? device();
    return on instanceof WebGpuDevice ? planOf(on, args).replay(args) : scope(() => step(...args));
  };
  const prepare = async (...args: A) => {
    const on = args[0]?.device ?? device();
    if (!(on instanceof WebGpuDevice)) return;
    const plan = planOf(on, args);
    if (await on.tuner.settle(on)) {
      plan.discard();
      plans.delete(signatureOf(args));
      planOf(on, args);
    }
    await on.pipelines.warm();
  };
  return Object.assign(run, { prepare });
}
