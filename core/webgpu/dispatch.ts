import { byteSize } from "../dtype.ts";
import type { OutputMeta } from "../op.ts";
import type { Work } from "./lowering.ts";

/** What a dispatch does, in plain data: it keeps no tensor alive. */
export interface Dispatch {
  op: string;
  variant: string;
  /** The kernel's path under `kernels/`. */
  file: string;
  grid: readonly [number, number, number];
  /** Of the whole call, of which this may be one dispatch among several. */
  inputs: readonly OutputMeta[];
  outputs: readonly OutputMeta[];
  attrs: unknown;
  /** Of the tensors that are bound; those that the kernel updates in place count twice. */
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
  return { op, variant, file: kernel.label, grid, inputs, outputs, attrs: call.attrs, bytes };
}

/** Where the pass of a dispatch leaves its times; set on the recorder, it gives every dispatch a pass of its own. */
export type Stamp = (dispatch: Dispatch) => GPUComputePassTimestampWrites;
