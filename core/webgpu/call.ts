import type { Storage } from "../device.ts";
import { byteSize, type DType } from "../dtype.ts";
import type { AnyOp, Call, DeviceProfile, OutputMeta, Variant } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import type { Kernel, Pipelines } from "./pipelines.ts";

// What lowering, recorder, tuner, compiled steps and the device hand to each other.

/** A call seen while a step is traced. */
export interface TracedCall {
  op: AnyOp;
  inputs: readonly Tensor[];
  attrs: unknown;
  outputs: readonly Tensor[];
}

/** Rewrites the traced calls before they are lowered, e.g. fusion. `live` storages must exist after the step. */
export type TraceRewrite = (calls: TracedCall[], live: ReadonlySet<Storage>) => TracedCall[];

/** One dispatch, ready to be recorded or to become part of a compiled step. */
export interface Work {
  readonly kernel: Kernel;
  readonly storages: readonly Storage[];
  /** Byte offset of each storage, a multiple of 256. */
  readonly offsets: readonly number[];
  /** The words of the kernel's `Params`. */
  readonly params: Uint8Array;
  readonly grid: readonly [number, number, number];
  /** `op/variant`. */
  readonly label: string;
  /** The call that this dispatch belongs to, and the tensors it binds, for profiles. */
  readonly call: TracedCall;
  readonly bound: readonly Tensor[];
}

/** The parts of a device that lowering needs. */
export interface LowerEnv {
  readonly profile: DeviceProfile;
  readonly pipelines: Pipelines;
  /** Tests force a variant by op name. */
  readonly forcedVariant: ReadonlyMap<string, string>;
  /** The measured option to plan a call with; undefined leaves it to the variant. */
  readonly tuner: { optionOf(op: AnyOp, variant: Variant<never>, call: Call<never>): string | undefined };
  allocate(dtype: DType, length: number): Storage;
  emit(work: Work): void;
}

/** A dispatch described in plain data, which keeps no tensor alive. */
export interface Dispatch {
  op: string;
  variant: string;
  /** The kernel's path under `kernels/`. */
  file: string;
  /** The WGSL that ran: specialised for dtypes and tiles, what it includes put in. */
  source: string;
  grid: readonly [number, number, number];
  /** Of the whole call, which may have several dispatches. */
  inputs: readonly OutputMeta[];
  outputs: readonly OutputMeta[];
  attrs: unknown;
  /** Of the bound tensors; those that the kernel updates in place count twice. */
  bytes: number;
}

export function describeDispatch({ kernel, label, grid, call, bound }: Work): Dispatch {
  const meta = ({ shape, dtype }: OutputMeta): OutputMeta => ({ shape, dtype });
  const [op, variant] = label.split("/") as [string, string];
  let bytes = 0;
  bound.forEach((t, i) => {
    const updated = kernel.storage[i].kind === "storage" && call.inputs.includes(t);
    // A broadcast tensor has more elements than its memory.
    bytes += Math.min(t.size, t.storage.length) * byteSize(t.dtype) * (updated ? 2 : 1);
  });
  const [inputs, outputs] = [call.inputs.map(meta), call.outputs.map(meta)];
  const { label: file, source } = kernel;
  return { op, variant, file, source, grid, inputs, outputs, attrs: call.attrs, bytes };
}

/** Timestamp writes for a dispatch. While the recorder has one, each dispatch gets its own pass. */
export type Stamp = (dispatch: Dispatch) => GPUComputePassTimestampWrites;
