import { isFloat } from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Reverse-mode differentiation over a tape of nodes, as in micrograd (Karpathy 2020): each recorded call knows how
 * to turn the cotangents of its outputs into those of its inputs. Rules are written in ops, so a rule that runs
 * while recording is on (`createGraph`) can be differentiated again: higher orders come free.
 */
export interface Node {
  /** Order of recording; cotangents flow from high to low. */
  readonly id: number;
  readonly name: string;
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly backward: (cotangents: readonly (Tensor | null)[]) => (Tensor | null)[];
}

let enabled = true;
let nextId = 0;

export function gradEnabled(): boolean {
  return enabled;
}

/** Runs `body` without recording derivatives. */
export function noGrad<T>(body: () => T): T {
  return withRecording(false, body);
}

/** Runs `body` with recording on or off. */
export function withRecording<T>(on: boolean, body: () => T): T {
  const before = enabled;
  enabled = on;
  try {
    return body();
  } finally {
    enabled = before;
  }
}

/** Puts a call on the tape. */
export function record(
  name: string,
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  backward: Node["backward"],
): void {
  const node: Node = { id: nextId++, name, inputs, outputs, backward };
  for (const output of outputs) {
    if (!isFloat(output.dtype)) continue;
    output.requiresGrad = true;
    output.node = node;
  }
}
