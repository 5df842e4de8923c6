import { persist } from "./device.ts";
import { KilnError } from "./errors.ts";
import { findOp } from "./op.ts";
import { sameShape, show } from "./shape.ts";
import { gradEnabled, type Node, noGrad, record, withRecording } from "./tape.ts";
import { apply, full, type Tensor } from "./tensor.ts";

/** A call whose derivative the caller writes: runs `forward` off the tape and records `backward` for its result. */
export function custom(
  name: string,
  inputs: readonly Tensor[],
  forward: () => Tensor[],
  backward: Node["backward"],
): Tensor[] {
  const outputs = noGrad(forward);
  if (gradEnabled() && inputs.some((t) => t.requiresGrad)) record(name, inputs, outputs, backward);
  return outputs;
}

export interface GradOptions {
  /** dL/d(output) for each output; ones when absent (then outputs must have one element). */
  cotangents?: readonly (Tensor | null)[];
  /** Record the derivative's own computation, so that it can be differentiated again. */
  createGraph?: boolean;
}

/** Derivatives of the outputs (summed with their cotangents) with respect to `inputs`; null where independent. */
export function grads(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  const roots = Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor];
  const wanted = new Set(inputs);
  return withRecording(options.createGraph ?? false, () => {
    const cotangent = new Map<Tensor, Tensor>();
    roots.forEach((root, i) => {
      const seed = options.cotangents ? options.cotangents[i]! : seedOf(root);
      if (seed) accumulate(cotangent, root, seed, "grads");
    });
    for (const node of reachable(roots)) {
      const given = node.outputs.map((output) => cotangent.get(output) ?? null);
      if (given.every((c) => c === null)) continue;
      const back = node.backward(given);
      // What has been passed on is not needed again, unless the caller asked for it.
      for (const output of node.outputs) if (!wanted.has(output)) cotangent.delete(output);
      node.inputs.forEach((input, i) => {
        if (input.requiresGrad && back[i]) accumulate(cotangent, input, back[i]!, node.name);
      });
    }
    return inputs.map((input) => cotangent.get(input) ?? null);
  });
}

/** Adds dL/d(leaf) to the `grad` of every leaf that `loss` (one element) depends on. */
export function backward(loss: Tensor): void {
  const leaves = new Set<Tensor>();
  for (const node of reachable([loss])) {
    for (const input of node.inputs) if (input.requiresGrad && !input.node) leaves.add(input);
  }
  const list = [...leaves];
  const found = grads(loss, list);
  list.forEach((leaf, i) => {
    const g = found[i];
    if (!g) return;
    const before = leaf.grad;
    leaf.grad = persist(before ? noGrad(() => add(before, g)) : g);
    if (before) before.storage.free();
  });
}

function seedOf(root: Tensor): Tensor {
  if (root.size !== 1) {
    throw new KilnError(
      `backward: the loss must have one element, this one is ${show(root.shape)}; reduce it with sum or mean`,
    );
  }
  return full(root.shape, 1, root.dtype, root.device);
}

function accumulate(into: Map<Tensor, Tensor>, key: Tensor, value: Tensor, name: string): void {
  if (!sameShape(key.shape, value.shape)) {
    throw new Error(
      `${name}: gradient of shape ${show(value.shape)} for an input of shape ${show(key.shape)}`,
    );
  }
  const sum = into.get(key);
  into.set(key, sum ? add(sum, value) : value);
}

function add(a: Tensor, b: Tensor): Tensor {
  return apply(findOp("add"), [a, b], {} as never)[0]!;
}

/** Every node that the roots depend on, latest first. */
function reachable(roots: readonly Tensor[]): Node[] {
  const seen = new Set<Node>();
  const stack = roots.flatMap((root) => root.node ?? []);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    for (const input of node.inputs) if (input.node) stack.push(input.node);
  }
  return [...seen].sort((a, b) => b.id - a.id);
}
