import { type Device, device, type StepCompiler, type TracedStep } from "./device.ts";
import { KilnError } from "./errors.ts";
import { forEachTensor, scope } from "./scope.ts";
import { show } from "./shape.ts";
import { asCompiledStep, endHistory, gradEnabled } from "./tape.ts";
import { Tensor } from "./tensor.ts";

export { beforeEachRun } from "./host_work.ts";

/** A compiled step; see `compile`. */
export interface Compiled<A extends Tensor[], R> {
  (...args: A): R;
  /**
   * Traces and plans the step for arguments of this signature, measures open choices of kernels (see `Tuner`) and
   * compiles the kernels side by side, without running the step: the first call is then as quick as the others. Only
   * shapes, dtypes and `requiresGrad` of the arguments are used.
   *
   * @throws KilnError `webgpu_error` where a kernel does not compile
   */
  prepare(...args: A): Promise<void>;
  /**
   * Traces the step and runs each of its kernels once instead of once for every layer, so that the first call waits for no
   * driver. What the step writes in place is nonsense then: give it arguments with which it writes nowhere that matters.
   */
  rehearse(...args: A): void;
  /** Gives the memory of the plans back at once, instead of when the step is garbage; a later call traces again. */
  discard(): void;
}

let generation = 0;

/** For what steps capture and plans cannot see (`computeIn`): every compiled step is traced again at its next call. */
export function retrace(): void {
  generation++;
}

type Guard = () => boolean;

/** Conditions under which the step that is being traced may be replayed; null outside of tracing. */
let guards: Guard[] | null = null;

/** What `read` returns: host state, such as a module's mode. A compiled step keeps a trace for each value it had. */
export function dependsOn<T>(read: () => T): T {
  const value = read();
  guards?.push(() => read() === value);
  return value;
}

/** A traced step, and when it may be replayed. */
interface Guarded<R> {
  readonly step: TracedStep<R>;
  readonly guards: readonly Guard[];
}

function trace<R>(compiler: StepCompiler, body: (...args: Tensor[]) => R, args: Tensor[]): Guarded<R> {
  const conditions: Guard[] = [];
  guards = conditions;
  try {
    return { step: asCompiledStep(() => compiler.trace(body, args)), guards: conditions };
  } finally {
    guards = null;
  }
}

/**
 * `step`, traced once and replayed: the first call with a new signature records the step's calls, fuses and plans them;
 * every call then replays a flat list of dispatches. The signature is the shapes, dtypes and `requiresGrad` of its
 * arguments, the device, and whether derivatives are recorded; where a captured tensor was freed or its `requiresGrad`
 * changed since, the step is traced again.
 *
 * The step takes tensors and returns tensors (or arrays or plain objects of them). What it captures (parameters,
 * optimizer state) is read and updated in place. Numbers that change from step to step must be arguments or captured
 * one-element tensors: a JavaScript number is frozen into the plan. Reading a value inside the step throws, and so does
 * differentiating a result outside of it.
 */
export function compile<A extends Tensor[], R>(step: (...args: A) => R): Compiled<A, R> {
  const traced = new Map<string, Guarded<R>[]>();
  let seen = generation;
  const discard = (signature: string) => {
    for (const known of traced.get(signature) ?? []) known.step.discard();
    traced.delete(signature);
  };
  const discardAll = () => {
    for (const signature of [...traced.keys()]) discard(signature);
  };
  const tracedOn = (on: Device, compiler: StepCompiler, args: A) => {
    if (seen !== generation) discardAll();
    seen = generation;
    const signature = signatureOf(on, args);
    const known = traced.get(signature)?.find((entry) => entry.guards.every((holds) => holds()));
    if (known?.step.current) return known.step;
    if (known) discard(signature);
    const fresh = trace(compiler, step as (...args: Tensor[]) => R, args);
    traced.set(signature, [...(traced.get(signature) ?? []), fresh]);
    return fresh.step;
  };
  const run = (...args: A) => {
    const on = deviceOf(args);
    if (on.compiler) return tracedOn(on, on.compiler, args).replay(args);
    const result = asCompiledStep(() => scope(() => step(...args)));
    forEachTensor(result, (t) => {
      if (t.node) endHistory(t);
    });
    return result;
  };
  const prepare = async (...args: A) => {
    const on = deviceOf(args);
    const { compiler } = on;
    if (!compiler) return;
    tracedOn(on, compiler, args);
    if (await compiler.measure()) {
      discard(signatureOf(on, args));
      tracedOn(on, compiler, args);
    }
    await compiler.warm();
  };
  const rehearse = (...args: A) => {
    const on = deviceOf(args);
    if (on.compiler) tracedOn(on, on.compiler, args).rehearse(args);
  };
  return Object.assign(run, { prepare, rehearse, discard: discardAll });
}

function deviceOf(args: readonly Tensor[]) {
  const number = args.findIndex((t) => !(t instanceof Tensor));
  if (number >= 0)
    throw new KilnError(
      `compile: argument ${number} of the step is not a tensor, so its value would be frozen; pass a one-element tensor`,
    );
  return args[0]?.device ?? device();
}

const deviceNumbers = new WeakMap<Device, number>();
let devices = 0;

function signatureOf(on: Device, args: readonly Tensor[]): string {
  if (!deviceNumbers.has(on)) deviceNumbers.set(on, devices++);
  let text = `${deviceNumbers.get(on)}${gradEnabled() ? "+" : ""}`;
  for (const t of args) text += ` ${t.dtype}${show(t.shape)}${t.requiresGrad ? "+" : ""}`;
  return text;
}
