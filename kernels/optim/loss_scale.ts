import { defineOp, opError, type TensorMeta } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { type Hyper, hyperIndices, hyperNames, hyperValues, noGradient } from "./shared.ts";

/** What a loss scaler remembers, f32 in this order. */
export const lossScalerNames = [
  /** Factor of the loss, and so of every gradient. */
  "loss_scale",
  /** Updates applied since the scale last changed. */
  "growth_tracker",
  /** Updates applied, skipped ones not counted. */
  "applied",
  "skipped",
] as const;

interface LossScaleAttrs {
  growth: number;
  backoff: number;
  /** Updates without overflow after which the scale grows. */
  interval: number;
}

function checkState(name: string, inputs: readonly TensorMeta[], state: TensorMeta, other: number): void {
  const fits = inputs.length === 2 && inputs.every(({ dtype }) => dtype === "f32");
  if (fits && numel(state.shape) === lossScalerNames.length && numel(inputs.at(-1)!.shape) >= other) return;
  throw opError(
    name,
    inputs,
    `expected f32 tensors, the scaler's state [${lossScalerNames.length}] among them`,
  );
}

const lossScaleOp = defineOp<LossScaleAttrs>({
  name: "loss_scale",
  doc: "(state, scale [1]), state in place: where global_norm's scale is 0 (gradients overflowed, the step was skipped) the loss scale shrinks, after `interval` applied updates in a row it grows. As torch.amp.GradScaler; Micikevicius et al. 2018.",
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    checkState("loss_scale", inputs, inputs[0], 1);
    return [];
  },
  reference([state, scale], { growth, backoff, interval }) {
    const s = state!.data;
    if (scale!.data[0] === 0) {
      s[0] *= backoff;
      s[1] = 0;
      s[3] += 1;
      return;
    }
    s[2] += 1;
    s[1] += 1;
    if (!(s[1] >= interval)) return;
    if (s[0] * growth < 3e38) s[0] *= growth;
    s[1] = 0;
  },
  file: "optim/loss_scale.wgsl",
  plan: ({ attrs: { growth, backoff, interval } }) => ({
    params: { growth, backoff, interval },
    grid: [1],
  }),
  samples: () => {
    const of = (name: string, state: number[], scale: number) => ({
      name,
      inputs: [
        { shape: [4], values: state },
        { shape: [1], values: [scale] },
      ],
      attrs: { growth: 2, backoff: 0.5, interval: 3 },
    });
    return [
      of("applied", [1024, 0, 7, 2], 0.25),
      of("grown", [1024, 2, 7, 2], 0.25),
      of("skipped", [1024, 2, 7, 2], 0),
      of("as large as it gets", [2e38, 2, 7, 2], 1),
    ];
  },
});

const appliedOp = defineOp<Record<string, never>>({
  name: "applied_hyper",
  doc: "(hyper, state of a loss scaler), hyper in place: bias corrections, SGD's first step and Adagrad's decay by the number of applied updates, which the host does not know.",
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    checkState("applied_hyper", inputs, inputs[1], lossScalerNames.length);
    if (numel(inputs[0].shape) !== hyperNames.length)
      throw opError("applied_hyper", inputs, `expected hyper [${hyperNames.length}]`);
    return [];
  },
  reference([hyper, state]) {
    const at = (name: keyof Hyper) => hyperNames.indexOf(name);
    const h = hyper!.data;
    const n = state!.data[2] + 1;
    // 1 - beta^n
    const correction = (rest: keyof Hyper) => {
      let c = 0;
      for (let i = 0; i < n; i++) c += h[at(rest)] * (1 - c);
      return c;
    };
    h[at("step")] = n;
    h[at("bias1")] = correction("one_minus_beta1");
    h[at("root_bias2")] = Math.sqrt(correction("one_minus_beta2"));
    h[at("fresh")] = n === 1 ? 1 : h[at("later_fresh")];
    h[at("lr")] = h[at("base_lr")] / (1 + (n - 1) * h[at("lr_decay")]);
  },
  file: "optim/applied.wgsl",
  plan: () => ({ defines: hyperIndices, grid: [1] }),
  samples: () => {
    const of = (name: string, values: Partial<Hyper>, applied: number) => ({
      name,
      inputs: [
        { shape: [hyperNames.length], values: hyperValues({ lr: 0.1, ...values }) },
        {
          shape: [4],
          values: [1024, 0, applied, 1],
          finite: "counts of updates, which start at 0 and grow by 1",
        },
      ],
      attrs: {},
    });
    const adam = { one_minus_beta1: 0.1, one_minus_beta2: 0.001 };
    return [
      of("Adam, first", adam, 0),
      of("Adam, second", adam, 1),
      of("Adam, long after", adam, 1722),
      of("Adagrad", { one_minus_beta2: 1, lr_decay: 0.1 }, 12),
      of("SGD, first", { later_fresh: 0.9 }, 0),
      of("SGD", { later_fresh: 0.9 }, 5),
    ];
  },
});

/** Moves a loss scaler on by one update, in place: `scale` is what `globalNorm` gave for it. */
export function updateLossScale(state: Tensor, scale: Tensor, attrs: LossScaleAttrs): void {
  apply(lossScaleOp, [state, scale], attrs);
}

/** Rewrites hyper values for the number of updates that a loss scaler has let through, in place. */
export function countApplied(hyper: Tensor, state: Tensor): void {
  apply(appliedOp, [hyper, state], {});
}
