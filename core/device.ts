import type { DType, HostArray } from "./dtype.ts";
import { KilnError } from "./errors.ts";
import type { AnyOp, DeviceProfile } from "./op.ts";
import { unwatch, type Watch, watch } from "./platform/garbage.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Where tensors live and ops run. Two implementations: `webgpu` runs an op's variants, `reference` runs its
 * float64 `reference`. Nothing above core may know which.
 */
export interface Device {
  readonly kind: "webgpu" | "reference";
  readonly profile: DeviceProfile;
  /** Bytes that live tensors hold. */
  readonly bytesInUse: number;
  /** Uninitialised memory for `length` elements. */
  allocate(dtype: DType, length: number): Storage;
  /** Memory that holds `values`; allowed inside a compiled step, where it becomes a constant of the plan. */
  upload(values: ArrayLike<number>, dtype: DType): Storage;
  /** Overwrites elements from `offset` on, after everything that was recorded before. */
  write(storage: Storage, values: ArrayLike<number>, offset: number): void;
  /** Elements `offset … offset + length`; waits for the device. */
  read(storage: Storage, offset: number, length: number): Promise<HostArray>;
  /** A tensor's values in row-major order, where the device has them at hand. */
  valuesNow?(t: Tensor): ArrayLike<number>;
  /** Records one call of an op; inputs and outputs are on this device. */
  run(op: AnyOp, inputs: readonly Tensor[], attrs: unknown, outputs: readonly Tensor[]): void;
  /** Absent where a compiled step is run like any other function. */
  readonly compiler?: StepCompiler;
  /** Frees the memory; called by scopes and the garbage collector only. */
  release(storage: Storage): void;
  /** Resolves when everything recorded so far has run. */
  sync(): Promise<void>;
  /** Whether there is memory for buffers of so many bytes at once, beside all that is in use. */
  fits?(sizes: readonly number[]): Promise<boolean>;
  /** Gives memory that no tensor holds, but the device keeps for the next ones, back to the system. */
  trim?(): Promise<void>;
}

/** A step as `compile` keeps it: traced for one signature of its arguments. */
export interface TracedStep<R> {
  /** Whether tracing the step now would give the same, as far as its captured tensors tell. */
  readonly current: boolean;
  replay(args: readonly Tensor[]): R;
  /** Runs each kernel that no step has rehearsed yet once, in the order of the step. */
  rehearse(args: readonly Tensor[]): void;
  /** Gives the memory back at once; the step must not be replayed any more. */
  discard(): void;
}

/** What a device that traces and replays steps does for `compile`. */
export interface StepCompiler {
  trace<R>(step: (...args: Tensor[]) => R, args: readonly Tensor[]): TracedStep<R>;
  /** Measures choices of kernels that are open; true if steps traced before should be traced again. */
  measure(): Promise<boolean>;
  /** Compiles the kernels of traced steps side by side. */
  warm(): Promise<void>;
}

/** Memory behind one or more tensors (views share it). */
export class Storage {
  readonly device: Device;
  readonly dtype: DType;
  /** In elements. */
  readonly length: number;
  /** What the device keeps here: a pool slot, a Float64Array, or null for a value that exists only in a trace. */
  handle: unknown;
  freed = false;
  /** How often it was overwritten in place; derivatives that need earlier values check it. */
  version = 0;
  /** While a derivative is computed that needs values from before an overwrite: the error of reading it. */
  stale: string | null = null;
  /** The scope that frees this storage, or null: then it lives until the garbage collector finds it. */
  scope: Set<Storage> | null = null;
  /** Frees the memory when this storage becomes unreachable; only outside of scopes. */
  #net: Watch | null = null;

  constructor(device: Device, dtype: DType, length: number, handle: unknown) {
    this.device = device;
    this.dtype = dtype;
    this.length = length;
    this.handle = handle;
    if (scopes.length > 0) {
      this.scope = scopes[scopes.length - 1];
      this.scope.add(this);
    } else if (handle !== null) this.#net = watch(this);
  }

  /** Moves this storage to another scope, or to none. */
  moveTo(scope: Set<Storage> | null): void {
    if (this.scope === scope || this.freed) return;
    this.scope?.delete(this);
    scope?.add(this);
    this.scope = scope;
    this.#unwatch();
    if (scope === null && this.handle !== null) this.#net = watch(this);
  }

  free(): void {
    if (this.freed) return;
    this.freed = true;
    this.scope?.delete(this);
    this.scope = null;
    this.#unwatch();
    this.device.release(this);
  }

  #unwatch(): void {
    if (this.#net) unwatch(this, this.#net);
    this.#net = null;
  }
}

/** The scopes that are running, innermost last; see scope.ts. */
export const scopes: Set<Storage>[] = [];

let current: Device | null = null;

/** The device that new tensors are made on. */
export function device(): Device {
  if (!current) throw new KilnError("no device is open: await openDevice() first");
  return current;
}

/** Whether there is a device for new tensors. */
export const hasDevice = (): boolean => current !== null;

/** Makes `d` the device of new tensors and returns the one before. */
export function setDevice(d: Device | null): Device | null {
  const previous = current;
  current = d;
  return previous;
}

/** Runs `body` with another device for new tensors. */
export function withDevice<T>(d: Device, body: () => T): T {
  const previous = setDevice(d);
  try {
    return body();
  } finally {
    setDevice(previous);
  }
}
