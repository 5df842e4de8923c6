import { isFloat } from "../../core/dtype.ts";
import { type Call, opError, type Sample, type TensorMeta, type Variant } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { foldGrid } from "../include/grid.ts";

/**
 * What optimizer kernels read from `hyper` (f32), in this order. The host writes it before each step, in float64
 * arithmetic: 1 - beta2 and the bias corrections would lose their digits in f32.
 */
export const hyperNames = [
  "lr",
  "beta1",
  "one_minus_beta1",
  "beta2",
  "one_minus_beta2",
  "eps",
  "weight_decay",
  /** 1 - beta1^step */
  "bias1",
  /** sqrt(1 - beta2^step) */
  "root_bias2",
  "momentum",
  /** Weight of the new gradient in SGD's buffer: 1 in the first step, 1 - dampening later. */
  "fresh",
  /** `fresh` of every step but the first. */
  "later_fresh",
  /** Adagrad's lr is base_lr / (1 + (step - 1) lr_decay). */
  "base_lr",
  "lr_decay",
] as const;

export type Hyper = Record<(typeof hyperNames)[number], number>;

/** A hyper tensor's values; what is not given is 0, bias corrections 1. */
export function hyperValues(values: Partial<Hyper>): number[] {
  const given: Partial<Hyper> = {
    bias1: 1,
    root_bias2: 1,
    fresh: 1,
    later_fresh: 1,
    base_lr: values.lr ?? 0,
    ...values,
  };
  return hyperNames.map((name) => given[name] ?? 0);
}

/** Checks the tensors of an update: `states` f32 tensors shaped as the parameter follow the gradient. */
export function check(name: string, inputs: readonly TensorMeta[], states: number): void {
  const [param, grad] = inputs;
  const kept = [param, ...inputs.slice(2, 2 + states)];
  const [hyper, scale] = inputs.slice(2 + states);
  const fits =
    inputs.length === states + 4 &&
    isFloat(grad.dtype) &&
    kept.every((t) => t.dtype === "f32") &&
    [...kept, grad].every((t) => sameShape(t.shape, param.shape)) &&
    numel(hyper.shape) === hyperNames.length &&
    numel(scale.shape) === 1;
  if (fits) return;
  const all = `parameter, gradient, ${states} state${states === 1 ? "" : "s"}`;
  throw opError(
    name,
    inputs,
    `expected ${all} of one shape (f32 but for the gradient), hyper [${hyperNames.length}] and scale [1]`,
  );
}

export function variants<A>(
  file: string,
  defines: (attrs: A) => Record<string, boolean>,
  factor?: (attrs: A) => number,
): Variant<A>[] {
  const plan = ({ inputs, attrs, profile }: Call<A>) => {
    const size = numel(inputs[0].shape);
    const vec = size % 4 === 0 ? 4 : 1;
    return {
      defines: { VEC: vec, GRAD: "T1", ...defines(attrs) },
      params: { size: size / vec, factor: factor?.(attrs) ?? 1 },
      grid: foldGrid(Math.ceil(size / vec / 256), profile),
    };
  };
  return [{ name: "plain", file, plan }];
}

/** Inputs that one dispatch of a multi-tensor kernel reads in the same way, VEC elements at a time. */
export interface Batch {
  inputs: number[];
  vec: 1 | 4;
  /** Their elements, in units of `vec`. */
  sizes: number[];
}

/** Sorts inputs by how they are read, at most `most` to a batch; kernels number their tensors with one digit. */
export function batchesOf(inputs: readonly TensorMeta[], which: readonly number[], most: number): Batch[] {
  const sorted = new Map<string, Batch[]>();
  for (const i of which) {
    const { shape, dtype } = inputs[i];
    const size = numel(shape);
    const vec = size % 4 === 0 ? 4 : 1;
    const batches = sorted.get(`${dtype} ${vec}`) ?? [];
    sorted.set(`${dtype} ${vec}`, batches);
    let open = batches.at(-1);
    if (!open || open.inputs.length === Math.min(most, 10)) {
      open = { inputs: [], vec, sizes: [] };
      batches.push(open);
    }
    open.inputs.push(i);
    open.sizes.push(size / vec);
  }
  return [...sorted.values()].flat();
}

export function samples<A>(states: number, attrs: A[], hyper: Partial<Hyper>): Sample<A>[] {
  const values = hyperValues({ lr: 0.1, eps: 1e-3, weight_decay: 0.2, ...hyper });
  const of = (name: string, shape: number[], a: A, scale: number): Sample<A> => ({
    name,
    inputs: [
      { shape },
      { shape },
      ...Array.from({ length: states }, () => ({ shape, range: [0.1, 2] as const })),
      { shape: [values.length], values },
      { shape: [1], values: [scale] },
    ],
    attrs: a,
  });
  return attrs.flatMap((a, i) => [
    of(`odd ${i}`, [3, 7], a, 1),
    of(`vec4 ${i}`, [1028], a, 0.5),
    of(`skipped ${i}`, [8], a, 0),
  ]);
}

export const noGradient = { notDifferentiable: "it updates parameters in place", f16: false } as const;
export const everyStep =
  "Reads every number that changes from hyper and the gradient's factor from scale [1]; a scale of 0 skips the step.";
