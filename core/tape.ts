import { Ambient } from "./ambient.ts";
import { isFloat } from "./dtype.ts";
import { KilnError } from "./errors.ts";
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
  /** The tensors that `backward` may read (inputs, outputs, others kept for it), and how often each had been overwritten. */
  readonly saved: readonly Tensor[];
  readonly versions: readonly number[];
  /** Whether the history ends here: what came before is unknown, and `backward` throws. */
  readonly severed: boolean;
  /** Whether derivatives have been taken through it. */
  spent: boolean;
}

const recording = new Ambient(true);
let nextId = 0;

export const gradEnabled = (): boolean => recording.value;

/** Runs `body` without recording derivatives. */
export function noGrad<T>(body: () => T): T {
  return withRecording(false, body);
}

/** Runs `body` with recording on or off. */
export function withRecording<T>(on: boolean, body: () => T): T {
  return recording.during(on, body);
}

const inStep = new Ambient(false);

/** Runs the body of a compiled step, which must have no effects that a replay would lack. */
export function asCompiledStep<T>(body: () => T): T {
  return inStep.during(true, body);
}

export const inCompiledStep = (): boolean => inStep.value;

/** Puts a call on the tape; `kept` are the tensors that `backward` reads besides inputs and outputs. */
export function record(
  name: string,
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  backward: Node["backward"],
  kept: readonly Tensor[] = [],
  severed = false,
): void {
  const saved = [...inputs, ...outputs, ...kept];
  const versions = saved.map((t) => t.storage.version);
  const id = nextId++;
  const node: Node = { id, name, inputs, outputs, backward, saved, versions, severed, spent: false };
  for (const output of outputs) {
    if (!isFloat(output.dtype)) continue;
    output.requiresGrad = true;
    output.node = node;
  }
}

/** Ends the history of a tensor: differentiating through it throws an error that says why. */
export function sever(t: Tensor, why: string): void {
  const refuse = () => {
    throw new KilnError(`no derivative reaches what ${t.label} was made of: ${why}`);
  };
  record("severed", [], [t], refuse, [], true);
}

/** What a compiled step returns cannot be differentiated outside of it. */
export function endHistory(t: Tensor): void {
  sever(t, "it comes from a compiled step; take derivatives inside of the step, or detach() it");
}

/** The id of the node that is recorded next. */
export function nextNode(): number {
  return nextId;
}

/** Every node that the roots depend on, latest first; only those recorded from the id `since` on. */
export function reachable(roots: readonly Tensor[], since = 0): Node[] {
  const seen = new Set<Node>();
  const stack = roots.flatMap((root) => root.node ?? []);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (node.id < since || seen.has(node)) continue;
    seen.add(node);
    for (const input of node.inputs) if (input.node) stack.push(input.node);
  }
  return [...seen].sort((a, b) => b.id - a.id);
}
