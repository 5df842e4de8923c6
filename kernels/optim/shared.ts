import type { TensorMeta } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";

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
  /** From 1 on; skipped steps do not count. */
  "step",
] as const;

export type Hyper = Record<(typeof hyperNames)[number], number>;

/** Defines of kernels that read `hyper`: hyper[LR], hyper[BETA1] and so on. */
export const hyperIndices = Object.fromEntries(hyperNames.map((name, i) => [name.toUpperCase(), i]));

/** A hyper tensor's values; absent ones are 0, bias corrections, SGD's `fresh` and `step` 1. */
export function hyperValues(values: Partial<Hyper>): number[] {
  const ones = { bias1: 1, root_bias2: 1, fresh: 1, later_fresh: 1, step: 1 };
  const all: Partial<Hyper> = { ...ones, base_lr: values.lr ?? 0, ...values };
  return hyperNames.map((name) => all[name] ?? 0);
}

/** The values of a hyper tensor by name. */
export function hyperOf(values: ArrayLike<number>): Hyper {
  return Object.fromEntries(hyperNames.map((name, i) => [name, values[i]])) as Hyper;
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

export const noGradient = { notDifferentiable: "it updates parameters in place", f16: false } as const;
export const everyStep =
  "Reads every number that changes from hyper and the gradient's factor from scale [1]; a scale of 0 skips the step.";
