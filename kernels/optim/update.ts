import { isFloat } from "../../core/dtype.ts";
import {
  type Call,
  defineOp,
  type Lowering,
  type Op,
  opError,
  type Pass,
  type Sample,
  type TensorMeta,
} from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { vecType } from "../include/vec.ts";
import {
  batchesOf,
  everyStep,
  type Hyper,
  hyperIndices,
  hyperNames,
  hyperOf,
  hyperValues,
  noGradient,
} from "./shared.ts";

type Flags = Readonly<Record<string, boolean>>;

/** How an optimizer moves one element; everything else is shared. */
export interface UpdateRule {
  name: string;
  doc: string;
  /** Path under `kernels/`: defines `update` of `optim/update.wgsl`. */
  file: string;
  /** How many numbers it remembers of each element of a parameter. */
  states: 1 | 2;
  /** The new value and the new states; `grad` is scaled already. */
  update: (
    param: number,
    grad: number,
    states: readonly number[],
    hyper: Hyper,
    flags: Flags,
  ) => [number, ...number[]];
  /** Attribute sets of the samples. */
  flags: readonly Flags[];
  /** Hyper values of the samples. */
  hyper: Partial<Hyper>;
}

/** A parameter as an optimizer's step takes it. */
export interface UpdateSlot {
  /** f32, updated in place. */
  param: Tensor;
  /** f32 or f16, shaped as the parameter. */
  grad: Tensor;
  /** f32 [states, ...parameter], updated in place. */
  memory: Tensor;
  /** A copy of the parameter in a narrower dtype, rewritten in the same pass. */
  half?: Tensor | null;
}

/**
 * Parameters per dispatch, within the adapter's limit of bindings. Software adapters take one: they start a dispatch
 * quickly, but run both sides of a choice between buffers, which made 2 or 4 per dispatch slower there than 1.
 */
const most = { together: 10, single: 1 };

/** The index of each slot's first tensor: after hyper and scale, `width` tensors per slot. */
const slotStarts = (inputs: number, width: number): number[] =>
  Array.from({ length: Math.floor((inputs - 2) / width) }, (_, k) => 2 + width * k);

/** Passes over slots that have equal dtypes and vector widths, as many slots per pass as `wanted` and bindings allow. */
function plan(
  { inputs, attrs, profile }: Call<Flags>,
  rule: UpdateRule,
  width: 3 | 4,
  wanted: number,
): Lowering {
  const together = Math.min(wanted, Math.floor((profile.maxStorageBuffers - 2) / width));
  const filled = slotStarts(inputs.length, width).filter((at) => numel(inputs[at].shape) > 0);
  const gradients = filled.map((at) => at + 1);
  const passes = batchesOf(inputs, gradients, together).map(({ inputs: grads, vec, sizes }): Pass => {
    let end = 0;
    const ends = sizes.map((size) => (end += Math.ceil(size / 256)));
    const each = (from: number) => grads.map((i) => `in${i + from}` as const);
    const HALVES = width === 4;
    return {
      defines: {
        ...hyperIndices,
        VEC: vec,
        GRAD: vecType(inputs[grads[0]].dtype, vec),
        COUNT: grads.length,
        STATES: rule.states,
        HALVES,
        ...(HALVES && { HALF: vecType(inputs[grads[0] + 2].dtype, vec) }),
        ...Object.fromEntries(Object.entries(attrs).map(([flag, on]) => [flag.toUpperCase(), on])),
      },
      params: { sizes, ends },
      grid: foldGrid(end, profile),
      bind: ["in0", "in1", ...each(-1), ...each(0), ...each(1), ...(HALVES ? each(2) : [])],
    };
  });
  return { passes };
}

function check(name: string, inputs: readonly TensorMeta[], states: number, width: 3 | 4): void {
  const [hyper, scale] = inputs;
  const fits = slotStarts(inputs.length, width).every((at) => {
    const [param, grad, memory, half] = inputs.slice(at, at + width);
    return (
      [param, memory].every(({ dtype }) => dtype === "f32") &&
      isFloat(grad.dtype) &&
      sameShape(grad.shape, param.shape) &&
      sameShape(memory.shape, [states, ...param.shape]) &&
      (!half || (half.dtype === inputs[5].dtype && sameShape(half.shape, param.shape)))
    );
  });
  const whole = inputs.length > 2 && (inputs.length - 2) % width === 0;
  if (fits && whole && numel(hyper.shape) === hyperNames.length && numel(scale.shape) === 1) return;
  const half = width === 4;
  throw opError(
    name,
    inputs,
    `expected hyper [${hyperNames.length}], scale [1], then for each parameter itself, its gradient, states [${states}, ...parameter]${half ? " and a copy" : ""} (f32 but for gradients${half ? " and copies" : ""})`,
  );
}

function samples({ states, flags, hyper }: UpdateRule, width: 3 | 4): Sample<Flags>[] {
  const values = hyperValues({ lr: 0.1, eps: 1e-3, weight_decay: 0.2, ...hyper });
  const of = (name: string, attrs: Flags, scale: number, shapes: number[][]): Sample<Flags> => ({
    name,
    inputs: [
      { shape: [values.length], values },
      { shape: [1], values: [scale] },
      ...shapes.flatMap((shape) => [
        { shape },
        { shape },
        { shape: [states, ...shape], range: [0.1, 2] as const },
        ...(width === 4 ? [{ shape }] : []),
      ]),
    ],
    attrs,
  });
  const mixed = [[3, 7], [1028], [2, 4], [5], [16], [1], [300, 4], [8]];
  return [
    of("mixed", flags[0], 0.5, mixed),
    of("skipped", flags[0], 0, [[4], [3]]),
    ...flags.map((each, i) => of(`flags ${i}`, each, 1, [[6], [8, 3], [4]])),
  ];
}

/** The op whose slots have `width` tensors: param, grad, states and, where four, a copy. */
function defineUpdate(rule: UpdateRule, width: 3 | 4): Op<Flags> {
  const half = width === 4;
  const name = half ? `${rule.name}_halves` : rule.name;
  const layout = `One step on any number of parameters that share no memory: (hyper, scale, then for each parameter param, grad, states [${rule.states}, ...param]${half ? ", a copy in a narrower dtype" : ""}), all but grad in place.`;
  const variant = (kind: keyof typeof most) => ({
    name: kind,
    file: rule.file,
    plan: (call: Call<Flags>) => plan(call, rule, width, most[kind]),
  });
  return defineOp<Flags>({
    name,
    doc: `${rule.doc} ${layout} ${everyStep}`,
    ...noGradient,
    mutates: (inputs) =>
      slotStarts(inputs, width).flatMap((at) => (half ? [at, at + 2, at + 3] : [at, at + 2])),
    infer(inputs) {
      check(name, inputs, rule.states, width);
      return [];
    },
    reference([hyperTensor, scale, ...tensors], flags) {
      const factor = scale.data[0];
      if (factor === 0) return;
      const hyper = hyperOf(hyperTensor.data);
      for (let at = 0; at < tensors.length; at += width) {
        const [param, grad, memory, copy] = tensors.slice(at, at + width).map((t) => t.data);
        const size = param.length;
        for (let i = 0; i < size; i++) {
          const old = Array.from({ length: rule.states }, (_, s) => memory[s * size + i]);
          const [value, ...states] = rule.update(param[i], grad[i] * factor, old, hyper, flags);
          param[i] = value;
          states.forEach((state, s) => {
            memory[s * size + i] = state;
          });
        }
        copy?.set(param);
      }
    },
    variants: [{ ...variant("single"), when: ({ profile }) => profile.class === "cpu" }, variant("together")],
    samples: () => samples(rule, width),
  });
}

/** Defines the ops of a rule and returns its step: updates all slots in place, in as few dispatches as bindings allow. */
export function defineStep(rule: UpdateRule) {
  const [plainOp, halvesOp] = [defineUpdate(rule, 3), defineUpdate(rule, 4)];
  return (slots: readonly UpdateSlot[], hyper: Tensor, scale: Tensor, flags: Flags): void => {
    const [plain, halved] = [slots.filter(({ half }) => !half), slots.filter(({ half }) => half)];
    const tensors = (of: readonly UpdateSlot[]) =>
      of.flatMap(({ param, grad, memory, half }) =>
        half ? [param, grad, memory, half] : [param, grad, memory],
      );
    if (plain.length > 0) apply(plainOp, [hyper, scale, ...tensors(plain)], flags);
    if (halved.length > 0) apply(halvesOp, [hyper, scale, ...tensors(halved)], flags);
  };
}
