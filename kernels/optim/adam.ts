import { isFloat, wgslType } from "../../core/dtype.ts";
import {
  type Call,
  defineOp,
  type Lowering,
  opError,
  type Pass,
  type Sample,
  type TensorMeta,
} from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import {
  batchesOf,
  check,
  everyStep,
  hyperNames,
  hyperValues,
  noGradient,
  samples,
  variants,
} from "./shared.ts";

interface AdamAttrs {
  /** Weight decay shrinks the parameter itself (AdamW) instead of joining the gradient. */
  decoupled: boolean;
}

/** The meaning of both ops below, in place. */
function update(
  [param, grad, first, second]: readonly Float64Array[],
  hyper: Float64Array,
  scale: number,
  decoupled: boolean,
): void {
  const [lr, , fresh1, beta2, fresh2, eps, decay, bias1, rootBias2] = hyper;
  if (scale === 0) return;
  for (let i = 0; i < param.length; i++) {
    const p = param[i];
    const g = grad[i] * scale + (decoupled ? 0 : decay * p);
    first[i] += (g - first[i]) * fresh1;
    second[i] = second[i] * beta2 + fresh2 * g * g;
    const step = ((lr / bias1) * first[i]) / (Math.sqrt(second[i]) / rootBias2 + eps);
    param[i] = p - (decoupled ? lr * decay * p : 0) - step;
  }
}

const sampleHyper = {
  one_minus_beta1: 0.1,
  beta2: 0.95,
  one_minus_beta2: 0.05,
  bias1: 0.19,
  root_bias2: 0.3,
};

const adamOp = defineOp<AdamAttrs>({
  name: "adam",
  doc: `One step of Adam, or AdamW with decoupled weight decay: (param, grad, first, second, hyper, scale), in place. ${everyStep} Kingma & Ba 2015; Loshchilov & Hutter 2019.`,
  ...noGradient,
  mutates: [0, 2, 3],
  infer(inputs) {
    check("adam", inputs, 2);
    return [];
  },
  reference: ([param, grad, first, second, hyper, scale], { decoupled }) =>
    update(
      [param, grad, first, second].map((t) => t!.data),
      hyper!.data,
      scale!.data[0],
      decoupled,
    ),
  variants: variants("optim/adam.wgsl", ({ decoupled }) => ({ DECOUPLED: decoupled })),
  samples: () => samples(2, [{ decoupled: true }, { decoupled: false }], sampleHyper),
});

/**
 * Parameters to a dispatch, where the adapter has bindings for so many. Software adapters take one: they start a dispatch
 * quickly, but run both sides of a choice between buffers, which made 2 or 4 to a dispatch slower there than 1.
 */
const most = { together: 10, single: 1 };

/** Where what belongs to each parameter begins among the inputs: `width` tensors each, after hyper and scale. */
const starts = (inputs: number, width: number): number[] =>
  Array.from({ length: Math.floor((inputs - 2) / width) }, (_, k) => 2 + width * k);

/** As many parameters to a dispatch as the adapter has bindings for, those read in the same way together. */
function planMulti({ inputs, attrs, profile }: Call<AdamAttrs>, width: number, wanted: number): Lowering {
  const together = Math.min(wanted, Math.floor((profile.maxStorageBuffers - 2) / width));
  const filled = starts(inputs.length, width).filter((at) => numel(inputs[at].shape) > 0);
  const gradients = filled.map((at) => at + 1);
  const passes = batchesOf(inputs, gradients, together).map(({ inputs: grads, vec, sizes }): Pass => {
    let end = 0;
    const ends = sizes.map((size) => (end += Math.ceil(size / 256)));
    const each = (from: number) => grads.map((i) => `in${i + from}` as const);
    const HALVES = width === 4;
    return {
      defines: {
        VEC: vec,
        GRAD: wgslType(inputs[grads[0]].dtype),
        COUNT: grads.length,
        DECOUPLED: attrs.decoupled,
        HALVES,
        ...(HALVES && { HALF: wgslType(inputs[grads[0] + 2].dtype) }),
      },
      params: { sizes, ends },
      grid: foldGrid(end, profile),
      bind: ["in0", "in1", ...each(-1), ...each(0), ...each(1), ...(HALVES ? each(2) : [])],
    };
  });
  return { passes };
}

function checkMulti(name: string, inputs: readonly TensorMeta[], width: number): void {
  const [hyper, scale] = inputs;
  const fits = starts(inputs.length, width).every((at) => {
    const [param, grad, moments, half] = inputs.slice(at, at + width);
    const kept = param.dtype === "f32" && moments.dtype === "f32" && isFloat(grad.dtype);
    const copied = !half || (half.dtype === inputs[5].dtype && sameShape(half.shape, param.shape));
    return (
      kept && copied && sameShape(grad.shape, param.shape) && sameShape(moments.shape, [2, ...param.shape])
    );
  });
  const whole =
    inputs.length > 2 && (inputs.length - 2) % width === 0 && numel(hyper.shape) === hyperNames.length;
  if (fits && whole && numel(scale.shape) === 1) return;
  throw opError(
    name,
    inputs,
    `expected hyper [${hyperNames.length}], scale [1], then parameter, gradient and moments [2, ...parameter]${width === 4 ? " and a copy" : ""} again and again (f32 but for gradients${width === 4 ? " and copies" : ""})`,
  );
}

/** The op with so many tensors of each parameter: param, grad, moments and, where four, a copy. */
function defineMulti(name: string, doc: string, width: 3 | 4) {
  return defineOp<AdamAttrs>({
    name,
    doc,
    ...noGradient,
    mutates: (inputs) =>
      starts(inputs, width).flatMap((at) => [at, at + 2, ...(width === 4 ? [at + 3] : [])]),
    infer(inputs) {
      checkMulti(name, inputs, width);
      return [];
    },
    reference([hyper, scale, ...tensors], { decoupled }) {
      for (let at = 0; at < tensors.length; at += width) {
        const [param, grad, moments, half] = tensors.slice(at, at + width).map((t) => t.data);
        const pair = [moments.subarray(0, param.length), moments.subarray(param.length)];
        update([param, grad, ...pair], hyper.data, scale.data[0], decoupled);
        if (scale.data[0] !== 0) half?.set(param);
      }
    },
    variants: [
      {
        name: "single",
        file: "optim/multi_adam.wgsl",
        when: ({ profile }) => profile.class === "cpu",
        plan: (call) => planMulti(call, width, most.single),
      },
      {
        name: "together",
        file: "optim/multi_adam.wgsl",
        plan: (call) => planMulti(call, width, most.together),
      },
    ],
    samples: () => multiSamples(width),
  });
}

function multiSamples(width: 3 | 4): Sample<AdamAttrs>[] {
  const values = hyperValues({ lr: 0.1, eps: 1e-3, weight_decay: 0.2, ...sampleHyper });
  const of = (name: string, decoupled: boolean, scale: number, shapes: number[][]): Sample<AdamAttrs> => ({
    name,
    inputs: [
      { shape: [values.length], values },
      { shape: [1], values: [scale] },
      ...shapes.flatMap((shape) => [
        { shape },
        { shape },
        { shape: [2, ...shape], range: [0.1, 2] as const },
        ...(width === 4 ? [{ shape }] : []),
      ]),
    ],
    attrs: { decoupled },
  });
  const mixed = [[3, 7], [1028], [2, 4], [5], [16], [1], [300, 4], [8]];
  return [
    of("mixed", true, 0.5, mixed),
    of("coupled", false, 1, [[6], [8, 3], [4]]),
    of("skipped", true, 0, [[4], [3]]),
    of("one", true, 1, [[6, 2]]),
  ];
}

const multiDoc = `The op adam on any number of parameters in few dispatches: (hyper, scale, then of each parameter param, grad, moments), in place. moments [2, ...param] holds both of adam's. Parameters must not share memory. ${everyStep}`;
const multiAdamOp = defineMulti("multi_adam", multiDoc, 3);
const multiAdamHalvesOp = defineMulti(
  "multi_adam_halves",
  "multi_adam with a fourth tensor of each parameter: a copy of it in a narrower dtype, overwritten with the new values.",
  4,
);

/** One step of Adam or, `decoupled`, AdamW on one parameter, in place. */
export function adamStep(
  param: Tensor,
  grad: Tensor,
  first: Tensor,
  second: Tensor,
  hyper: Tensor,
  scale: Tensor,
  decoupled = true,
): void {
  apply(adamOp, [param, grad, first, second, hyper, scale], { decoupled });
}

/** A parameter of `multiAdamStep` with its gradient and both moments, [2, ...parameter]. */
export interface AdamSlot {
  param: Tensor;
  grad: Tensor;
  moments: Tensor;
  /** A copy of the parameter in a narrower dtype, rewritten in the same pass. */
  half?: Tensor | null;
}

/** One step of Adam or, `decoupled`, AdamW on several parameters, in place: the same bits as `adamStep` on each. */
export function multiAdamStep(
  slots: readonly AdamSlot[],
  hyper: Tensor,
  scale: Tensor,
  decoupled = true,
): void {
  const [plain, halved] = [slots.filter(({ half }) => !half), slots.filter(({ half }) => half)];
  if (plain.length > 0) {
    const tensors = plain.flatMap(({ param, grad, moments }) => [param, grad, moments]);
    apply(multiAdamOp, [hyper, scale, ...tensors], { decoupled });
  }
  if (halved.length > 0) {
    const tensors = halved.flatMap(({ param, grad, moments, half }) => [param, grad, moments, half!]);
    apply(multiAdamHalvesOp, [hyper, scale, ...tensors], { decoupled });
  }
}
