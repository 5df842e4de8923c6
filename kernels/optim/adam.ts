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
import { foldGrid } from "../grid.ts";
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
      scale!.data[0]!,
      decoupled,
    ),
  variants: variants("optim/adam.wgsl", ({ decoupled }) => ({ DECOUPLED: decoupled })),
  samples: () => samples(2, [{ decoupled: true }, { decoupled: false }], sampleHyper),
});

/** Inputs of the op below that belong to parameter `k`. */
const paramOf = (k: number) => 2 + 3 * k;
const gradOf = (k: number) => 3 + 3 * k;
const momentsOf = (k: number) => 4 + 3 * k;
const countOf = (inputs: number) => Math.floor((inputs - 2) / 3);
const upTo = (count: number) => Array.from({ length: count }, (_, k) => k);

/**
 * Parameters to a dispatch, where the adapter has bindings for so many. Software adapters take one: they start a dispatch
 * quickly, but run both sides of a choice between buffers, which made 2 or 4 to a dispatch slower there than 1.
 */
const most = { together: 10, single: 1 };

/** As many parameters to a dispatch as the adapter has bindings for, those read in the same way together. */
function planMulti({ inputs, attrs, profile }: Call<AdamAttrs>, wanted: number): Lowering {
  const together = Math.min(wanted, Math.floor((profile.maxStorageBuffers - 2) / 3));
  const filled = upTo(countOf(inputs.length)).filter((k) => numel(inputs[paramOf(k)].shape) > 0);
  const passes = batchesOf(inputs, filled.map(gradOf), together).map(
    ({ inputs: grads, vec, sizes }): Pass => {
      let end = 0;
      const ends = sizes.map((size) => (end += Math.ceil(size / 256)));
      const [params, moments] = [-1, 1].map((step) => grads.map((i) => `in${i + step}` as const));
      return {
        defines: {
          VEC: vec,
          GRAD: wgslType(inputs[grads[0]].dtype),
          COUNT: grads.length,
          DECOUPLED: attrs.decoupled,
        },
        params: { sizes, ends },
        grid: foldGrid(end, profile),
        bind: ["in0", "in1", ...params, ...grads.map((i) => `in${i}` as const), ...moments],
      };
    },
  );
  return { passes };
}

function checkMulti(inputs: readonly TensorMeta[]): void {
  const [hyper, scale] = inputs;
  const fits = upTo(countOf(inputs.length)).every((k) => {
    const [param, grad, moments] = inputs.slice(paramOf(k), paramOf(k) + 3);
    const kept = param.dtype === "f32" && moments.dtype === "f32" && isFloat(grad.dtype);
    return kept && sameShape(grad.shape, param.shape) && sameShape(moments.shape, [2, ...param.shape]);
  });
  const whole = inputs.length >= 5 && inputs.length % 3 === 2 && numel(hyper.shape) === hyperNames.length;
  if (fits && whole && numel(scale.shape) === 1) return;
  throw opError(
    "multi_adam",
    inputs,
    `expected hyper [${hyperNames.length}], scale [1], then parameter, gradient and moments [2, ...parameter] again and again (f32 but for gradients)`,
  );
}

const multiAdamOp = defineOp<AdamAttrs>({
  name: "multi_adam",
  doc: `The op adam on any number of parameters in few dispatches: (hyper, scale, then of each parameter param, grad, moments), in place. moments [2, ...param] holds both of adam's. Parameters must not share memory. ${everyStep}`,
  ...noGradient,
  mutates: (inputs) => upTo(countOf(inputs)).flatMap((k) => [paramOf(k), momentsOf(k)]),
  infer(inputs) {
    checkMulti(inputs);
    return [];
  },
  reference([hyper, scale, ...tensors], { decoupled }) {
    for (const k of upTo(tensors.length / 3)) {
      const [param, grad, moments] = tensors.slice(3 * k, 3 * k + 3).map((t) => t.data);
      const halves = [moments.subarray(0, param.length), moments.subarray(param.length)];
      update([param, grad, ...halves], hyper.data, scale.data[0], decoupled);
    }
  },
  variants: [
    {
      name: "single",
      file: "optim/multi_adam.wgsl",
      when: ({ profile }) => profile.class === "cpu",
      plan: (call) => planMulti(call, most.single),
    },
    { name: "together", file: "optim/multi_adam.wgsl", plan: (call) => planMulti(call, most.together) },
  ],
  samples: () => {
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
  },
});

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
}

/** One step of Adam or, `decoupled`, AdamW on several parameters, in place: the same bits as `adamStep` on each. */
export function multiAdamStep(
  slots: readonly AdamSlot[],
  hyper: Tensor,
  scale: Tensor,
  decoupled = true,
): void {
  const tensors = slots.flatMap(({ param, grad, moments }) => [param, grad, moments]);
  apply(multiAdamOp, [hyper, scale, ...tensors], { decoupled });
}
