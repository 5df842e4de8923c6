import type { Storage } from "./device.ts";
import { checkOptions, KilnError } from "./errors.ts";
import { addOp } from "./primitives.ts";
import { persist, scope } from "./scope.ts";
import { sameShape, show } from "./shape.ts";
import {
  gradEnabled,
  inCompiledStep,
  type Node,
  nextNode,
  noGrad,
  reachable,
  record,
  sever,
  withRecording,
} from "./tape.ts";
import { apply, full, type Tensor } from "./tensor.ts";

/**
 * A call whose derivative the caller writes: runs `forward` off the tape and records `backward` for its outputs. What
 * forward computes for backward it returns as `saved`. Backward must be written in ops of its cotangents, the inputs and
 * `saved` to have derivatives itself; those of `saved` are not known, and asking for them is an error.
 */
export function custom<S extends Tensor | null>(
  name: string,
  inputs: readonly Tensor[],
  forward: () => { outputs: Tensor[]; saved?: readonly S[] },
  backward: (cotangents: readonly (Tensor | null)[], saved: readonly S[]) => (Tensor | null)[],
): Tensor[] {
  const { outputs, saved = [] } = noGrad(forward);
  if (!gradEnabled() || !inputs.some((t) => t.requiresGrad)) return outputs;
  const kept = saved.filter((t): t is S & Tensor => t !== null);
  for (const t of kept) sever(t, `it is saved by ${name}, which has no second derivative`);
  record(name, inputs, outputs, (cotangents) => backward(cotangents, saved), kept);
  return outputs;
}

/**
 * `body(...inputs)` without keeping what its derivatives need: they compute it again (Chen et al. 2016), as PyTorch's
 * `torch.utils.checkpoint` does. Memory is that of inputs and outputs; time, one more forward pass. The body must be a
 * function of its inputs and of tensors that stay as they are; random numbers come from keys, so that dropout draws the
 * same masks again. Derivatives of first order only.
 */
export function checkpoint<T extends Tensor | Tensor[]>(
  body: (...inputs: Tensor[]) => T,
  ...inputs: Tensor[]
): T {
  if (!gradEnabled()) return body(...inputs);
  const since = nextNode();
  const again = () => inputs.map((t) => Object.assign(t.detach(), { requiresGrad: t.requiresGrad }));
  const captured = new Set<Tensor>();
  const listOf = (made: T): Tensor[] => (Array.isArray(made) ? made : [made]);
  const result = scope(() => {
    const own = again();
    const made = body(...own);
    for (const node of reachable(listOf(made), since))
      for (const t of node.inputs)
        if (t.requiresGrad && !own.includes(t) && (t.node?.id ?? -1) < since) captured.add(t);
    return (Array.isArray(made) ? made.map((t) => t.detach()) : made.detach()) as T;
  });
  const sources = [...inputs, ...captured];
  if (!sources.some((t) => t.requiresGrad)) return result;
  record("checkpoint", sources, listOf(result), (cotangents) => {
    const found = scope(() => {
      const own = again();
      const made = withRecording(true, () => body(...own));
      const wanted = [...own, ...captured];
      const needed = wanted.filter((t) => t.requiresGrad);
      const slopes = grads(listOf(made), needed, { cotangents });
      return wanted.map((t) => slopes[needed.indexOf(t)] ?? null);
    });
    if (gradEnabled())
      for (const t of found) if (t) sever(t, "checkpoint has no second derivative; compute without it");
    return found;
  });
  return result;
}

export interface GradOptions {
  /** dL/d(output) for each output; ones when absent (then outputs must have one element). */
  cotangents?: readonly (Tensor | null)[];
  /** Record the derivative's own computation, so that it can be differentiated again. */
  createGraph?: boolean;
}

/**
 * Derivatives of the outputs (summed with their cotangents) with respect to `inputs`; null where independent. It is an
 * error where an input, or every output, does not require a gradient.
 */
export function grads(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  checkOptions("grads", options, ["cotangents", "createGraph"]);
  const roots = Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor];
  const wanted = new Set(inputs);
  assertRecorded("grads", roots);
  const constant = inputs.find((t) => !t.requiresGrad);
  if (constant)
    throw new KilnError(
      `grads: ${constant.label} needs no gradient; call requireGrad() on it before computing`,
    );
  return withRecording(options.createGraph ?? false, () => {
    const cotangent = new Map<Tensor, Tensor>();
    roots.forEach((root, i) => {
      const seed = options.cotangents ? options.cotangents[i] : seedOf(root);
      if (seed) accumulate(cotangent, root, seed, "grads");
    });
    for (const node of leading(roots, wanted)) {
      const given = node.outputs.map((output) => cotangent.get(output) ?? null);
      if (given.every((c) => c === null)) continue;
      const back = guarded(node, () => node.backward(given));
      node.spent ||= !options.createGraph;
      // What has been passed on is not needed again, unless the caller asked for it.
      for (const output of node.outputs) if (!wanted.has(output)) cotangent.delete(output);
      node.inputs.forEach((input, i) => {
        if (input.requiresGrad && back[i]) accumulate(cotangent, input, back[i], node.name);
      });
    }
    return inputs.map((input) => cotangent.get(input) ?? null);
  });
}

/**
 * Adds dL/d(leaf) to the `grad` of every leaf that `loss` (one element) depends on; it is an error if there is none.
 * Set `grad` to null to start over. In a compiled step use `grads`: a replay sets no members of JavaScript objects.
 */
export function backward(loss: Tensor): void {
  if (inCompiledStep())
    throw new KilnError("backward: a compiled step returns its derivatives; use grads() and return them");
  assertRecorded("backward", [loss]);
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
  return apply(addOp(), [a, b], {} as never)[0];
}

function assertRecorded(what: string, roots: readonly Tensor[]): void {
  if (roots.length === 0 || roots.some((root) => root.requiresGrad)) return;
  throw new KilnError(
    `${what}: ${roots.map((t) => t.label).join(", ")} depends on no tensor that needs a gradient; call requireGrad() on those that do, and compute outside of noGrad()`,
  );
}

/** The nodes between the roots and the wanted tensors, latest first; also severed nodes, which may hide a wanted one. */
function leading(roots: readonly Tensor[], wanted: ReadonlySet<Tensor>): Node[] {
  const nodes = reachable(roots);
  const found = new Set<Node>();
  for (const node of [...nodes].reverse()) {
    const hides = node.severed && !node.outputs.some((t) => wanted.has(t));
    if (hides || node.inputs.some((t) => wanted.has(t) || (t.node && found.has(t.node)))) found.add(node);
  }
  return nodes.filter((node) => found.has(node));
}

/** Runs a node's rule, in which reading what was overwritten since the forward pass is an error. */
function guarded<T>(node: Node, rule: () => T): T {
  const { saved, versions, name } = node;
  if (saved.every((t, i) => t.storage.version === versions[i])) return rule();
  const before = new Map<Storage, string | null>();
  saved.forEach((t, i) => {
    const { storage } = t;
    if (storage.version === versions[i] || before.has(storage)) return;
    before.set(storage, storage.stale);
    storage.stale = `the derivative of ${name} needs ${t.label} as it was, but it has been overwritten in place since; take derivatives before the update, or update a copy`;
  });
  try {
    return rule();
  } finally {
    for (const [storage, stale] of before) storage.stale = stale;
  }
}
