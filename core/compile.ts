import { device, forEachTensor, scope } from "./device.ts";
import { KilnError } from "./errors.ts";
import { show } from "./shape.ts";
import { asCompiledStep, gradEnabled } from "./tape.ts";
import { Tensor } from "./tensor.ts";
import { endHistory, Plan } from "./webgpu/compiled_step.ts";
import { WebGpuDevice } from "./webgpu/device.ts";

/** A compiled step; see `compile`. */
export interface Compiled<A extends Tensor[], R> {
  (...args: A): R;
  /**
   * Traces and plans the step for arguments of this signature, measures what has a choice of kernels (see `Tuner`) and
   * compiles the kernels side by side, without running the step: the first call is then as quick as the others. Only
   * shapes, dtypes and `requiresGrad` of the arguments are used.
   *
   * @throws KilnError `webgpu_error` where a kernel does not compile
   */
  prepare(...args: A): Promise<void>;
}

let generation = 0;

/** For what steps capture and plans cannot see (`computeIn`): every compiled step is traced anew at its next call. */
export function retrace(): void {
  generation++;
}

/**
 * `step`, traced once and replayed: the first call with a new signature records the step's calls, fuses and plans them;
 * every call then replays a flat list of dispatches. The signature is the shapes, dtypes and `requiresGrad` of its
 * arguments, the device, and whether derivatives are recorded; where a captured tensor was freed or its `requiresGrad`
 * changed since, the step is traced anew.
 *
 * The step takes tensors and returns tensors (or arrays or plain objects of them). What it captures (parameters,
 * optimizer state) is read and updated in place. Numbers that change from step to step must be arguments or captured
 * one-element tensors: a JavaScript number is frozen into the plan. Reading a value inside the step throws, and so does
 * differentiating a result outside of it.
 */
export function compile<A extends Tensor[], R>(step: (...args: A) => R): Compiled<A, R> {
  const plans = new Map<string, Plan<R>>();
  let seen = generation;
  const discard = (signature: string) => {
    plans.get(signature)?.discard();
    plans.delete(signature);
  };
  const planOf = (on: WebGpuDevice, args: A) => {
    if (seen !== generation) for (const old of [...plans.keys()]) discard(old);
    seen = generation;
    const signature = signatureOf(on, args);
    if (!plans.get(signature)?.current) {
      discard(signature);
      plans.set(
        signature,
        asCompiledStep(() => new Plan(on, step as (...args: Tensor[]) => R, args)),
      );
    }
    return plans.get(signature)!;
  };
  const run = (...args: A) => {
    const on = deviceOf(args);
    if (on instanceof WebGpuDevice) return planOf(on, args).replay(args);
    const result = asCompiledStep(() => scope(() => step(...args)));
    forEachTensor(result, (t) => {
      if (t.node) endHistory(t);
    });
    return result;
  };
  const prepare = async (...args: A) => {
    const on = deviceOf(args);
    if (!(on instanceof WebGpuDevice)) return;
    planOf(on, args);
    if (await on.tuner.settle(on)) {
      discard(signatureOf(on, args));
      planOf(on, args);
    }
    await on.pipelines.warm();
  };
  return Object.assign(run, { prepare });
}

function deviceOf(args: readonly Tensor[]) {
  const number = args.findIndex((t) => !(t instanceof Tensor));
  if (number >= 0)
    throw new KilnError(`compile: argument ${number} of the step is no tensor; what is not would be frozen`);
  return args[0]?.device ?? device();
}

function signatureOf(on: WebGpuDevice, args: readonly Tensor[]): string {
  let text = `${on.id}${gradEnabled() ? "+" : ""}`;
  for (const t of args) text += ` ${t.dtype}${show(t.shape)}${t.requiresGrad ? "+" : ""}`;
  return text;
}
