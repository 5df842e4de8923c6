import { type DType, isFloat } from "../../core/dtype.ts";
import { checkOptions, KilnError } from "../../core/errors.ts";
import { type Call, defineOp, type Op, opError, type RefTensor, type TensorMeta } from "../../core/op.ts";
import { checkWhole, numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { add, cast, div, mul, ne } from "../elementwise/index.ts";
import { isIndex } from "../embedding/op.ts";
import { type RowWorker, rowPass, rowVariants } from "../include/row.ts";
import { sum } from "../reduce/index.ts";
import { softmax, softmaxBackward } from "../softmax/op.ts";
import { reshape } from "../views/index.ts";

export interface CrossEntropyAttrs {
  /** Rows with this target have no loss and no gradient. */
  ignoreIndex: number;
  /** Part of the target's weight that is spread evenly over all classes (Szegedy et al. 2015). */
  labelSmoothing: number;
}

interface UnitAttrs extends CrossEntropyAttrs {
  /** What the derivative is stored as; the logits' dtype when absent. */
  gradDtype?: DType;
}

function check(
  name: string,
  inputs: readonly TensorMeta[],
  logits: TensorMeta,
  target: TensorMeta,
  { ignoreIndex, labelSmoothing }: CrossEntropyAttrs,
): void {
  checkWhole(name, "ignoreIndex", ignoreIndex);
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1))
    throw new KilnError(`${name}: labelSmoothing is ${labelSmoothing}; expected a number from 0 to 1`);
  const fits =
    logits?.shape.length === 2 && target?.shape.length === 1 && target.shape[0] === logits.shape[0];
  if (!fits || !isFloat(logits.dtype) || !isIndex(target) || logits.shape[1] === 0) {
    throw opError(name, inputs, "expected float logits [N, classes] and i32 or u32 targets [N]");
  }
}

function variants(outputs: { LOSS: boolean; GRAD: boolean; SCALED: number }) {
  const plan = ({ inputs, attrs, profile }: Call<CrossEntropyAttrs>, worker: RowWorker) => {
    const [rows, cols] = inputs[0].shape;
    // Without a dloss there is one factor for all rows, if any.
    const SCALED = outputs.SCALED || (inputs.length > 2 ? 2 : 0);
    const params = { width: cols, ignored: attrs.ignoreIndex, smoothing: attrs.labelSmoothing };
    const TGRAD = outputs.LOSS ? "U1v" : "U0v";
    const defines = { ...outputs, SCALED, TGRAD, SMOOTH: attrs.labelSmoothing > 0 };
    return rowPass({ profile }, worker, { rows, cols, params, defines });
  };
  return rowVariants<CrossEntropyAttrs>(
    "cross_entropy/row.wgsl",
    ({ inputs: [logits] }) => logits.shape[1],
    plan,
  );
}

/** Loss of each row and, times `upstream`, its derivative by the logits; either output may be absent. */
function referenceRows(
  logits: RefTensor,
  target: RefTensor,
  { ignoreIndex, labelSmoothing }: CrossEntropyAttrs,
  out: { loss?: RefTensor; dlogits?: RefTensor; upstream?: RefTensor },
): void {
  const [rows, classes] = logits.shape;
  for (let row = 0; row < rows; row++) {
    const label = target.data[row];
    if (label === ignoreIndex) continue;
    const x = logits.data.subarray(row * classes, (row + 1) * classes);
    let top = Number.NEGATIVE_INFINITY;
    for (const v of x) top = Math.max(top, v);
    let all = 0;
    let average = 0;
    for (const v of x) {
      all += Math.exp(v - top);
      average += v / classes;
    }
    const logAll = label < 0 || label >= classes ? Number.NaN : top + Math.log(all);
    const smoothed = labelSmoothing > 0 ? labelSmoothing * (average - logAll) : 0;
    if (out.loss) out.loss.data[row] = -(1 - labelSmoothing) * (x[label] - logAll) - smoothed;
    const scale = out.upstream?.data[out.upstream.data.length === 1 ? 0 : row] ?? 1;
    for (let i = 0; out.dlogits && i < classes; i++) {
      const wanted = (i === label ? 1 - labelSmoothing : 0) + labelSmoothing / classes;
      out.dlogits.data[row * classes + i] = scale * (Math.exp(x[i] - logAll) - wanted);
    }
  }
}

/** [N] as [N, 1], to weigh rows. */
function asColumn(t: Tensor): Tensor {
  return reshape(t, [t.size, 1]);
}

function samples() {
  const of = (name: string, rows: number, classes: number, labelSmoothing: number) => ({
    name,
    inputs: [
      { shape: [rows, classes], range: [-8, 8] as const },
      { shape: [rows], dtype: "i32" as const, range: [-1, classes - 1] as const },
    ],
    attrs: { ignoreIndex: -1, labelSmoothing },
    atol: 5e-5,
  });
  return [
    of("odd", 6, 7, 0),
    of("vec4", 9, 20, 0),
    of("smoothed", 6, 12, 0.1),
    { ...of("wide", 2, 5003, 0), gradcheck: false },
    {
      ...of("mistaken target", 2, 8, 0),
      inputs: [{ shape: [2, 8] }, { shape: [2], dtype: "i32" as const, values: [8, 3] }],
      gradcheck: false,
    },
    { ...of("none", 0, 5, 0), gradcheck: false },
  ];
}

export const crossEntropyOp: Op<CrossEntropyAttrs> = defineOp<CrossEntropyAttrs>({
  name: "cross_entropy",
  doc: "loss[n] = -log softmax(logits[n])[target[n]] in f32, 0 where the target is ignoreIndex, NaN where it is no class, and where the logits hold NaN or +infinity or nothing but -infinity, as torch's; with label smoothing, the cross-entropy against (1 - s) one-hot + s / classes.",
  infer(inputs, attrs) {
    const [logits, target] = inputs;
    check("cross_entropy", inputs, logits, target, attrs);
    return [{ shape: target.shape, dtype: "f32" }];
  },
  reference([logits, target], attrs, [loss]) {
    referenceRows(logits, target, attrs, { loss });
  },
  gradient: ({ inputs: [logits, target], attrs }, [dloss]) => [
    dloss && apply(crossEntropyBackwardOp, [logits, target, dloss], attrs)[0],
    null,
  ],
  variants: variants({ LOSS: true, GRAD: false, SCALED: 0 }),
  samples,
  secondOrder: true,
});

const crossEntropyBackwardOp: Op<CrossEntropyAttrs> = defineOp<CrossEntropyAttrs>({
  name: "cross_entropy_backward",
  doc: "dlogits[n] = dloss[n] * (softmax(logits[n]) - wanted distribution), zeros where the target is ignoreIndex, NaN throughout a row whose loss is NaN.",
  infer(inputs, attrs) {
    const [logits, target, dloss] = inputs;
    check("cross_entropy_backward", inputs, logits, target, attrs);
    if (dloss?.shape.length !== 1 || dloss.shape[0] !== target.shape[0]) {
      throw opError("cross_entropy_backward", inputs, "expected dloss [N]");
    }
    return [{ shape: logits.shape, dtype: logits.dtype }];
  },
  reference([logits, target, upstream], attrs, [dlogits]) {
    referenceRows(logits, target, attrs, { dlogits, upstream });
  },
  gradient({ inputs: [logits, target, dloss], attrs, needs }, [g]) {
    if (!g) return [null, null, null];
    const supervised = cast(ne(target, attrs.ignoreIndex), "f32");
    const byLogits = () => {
      const weights = asColumn(mul(dloss, supervised));
      return softmaxBackward(cast(mul(g, weights), g.dtype), softmax(logits));
    };
    const byLoss = () => {
      const unit = apply(crossEntropyUnitOp, [logits, target], attrs)[1];
      return cast(sum(mul(g, unit), 1), dloss.dtype);
    };
    return [needs[0] ? byLogits() : null, null, needs[2] ? byLoss() : null];
  },
  variants: variants({ LOSS: false, GRAD: true, SCALED: 1 }),
  samples: () => samples().map((s) => ({ ...s, inputs: [...s.inputs, { shape: [s.inputs[0].shape[0]] }] })),
  secondOrder: true,
});

/** Loss and derivative in one go, for `linear_cross_entropy`, whose upstream derivative is known before or applied later. */
export const crossEntropyUnitOp: Op<UnitAttrs> = defineOp<UnitAttrs>({
  name: "cross_entropy_unit",
  doc: "(loss [N], dlogits [N, classes]): cross_entropy and its derivative for an upstream derivative of 1 or, where given, of upstream [1].",
  infer(inputs, attrs) {
    const { gradDtype } = attrs;
    const [logits, target, upstream] = inputs;
    check("cross_entropy_unit", inputs, logits, target, attrs);
    if (upstream && (numel(upstream.shape) !== 1 || upstream.dtype !== "f32")) {
      throw opError("cross_entropy_unit", inputs, "expected f32 upstream [1]");
    }
    return [
      { shape: target.shape, dtype: "f32" },
      { shape: logits.shape, dtype: gradDtype ?? logits.dtype },
    ];
  },
  reference([logits, target, upstream], attrs, [loss, dlogits]) {
    referenceRows(logits, target, attrs, { loss, dlogits, upstream });
  },
  gradient({ inputs: [logits, target, upstream], attrs, needs }, [dloss, given]) {
    const absent = upstream ? [null, null] : [null];
    const byLoss = dloss && apply(crossEntropyBackwardOp, [logits, target, dloss], attrs)[0];
    if (!given) return [byLoss, ...absent];
    const g = cast(given, logits.dtype);
    const supervised = asColumn(cast(ne(target, attrs.ignoreIndex), g.dtype));
    const factor = upstream ? cast(mul(supervised, upstream), g.dtype) : supervised;
    const byUnit = softmaxBackward(mul(g, factor), softmax(logits));
    const slope = () => sum(mul(g, apply(crossEntropyUnitOp, [logits, target], attrs)[1]));
    const byUpstream = needs[2] ? reshape(cast(slope(), "f32"), upstream.shape) : null;
    return [byLoss ? add(byLoss, byUnit) : byUnit, null, ...(upstream ? [byUpstream] : [])];
  },
  variants: variants({ LOSS: true, GRAD: true, SCALED: 0 }),
  samples: () => {
    const plain = samples();
    const upstream = { shape: [1], dtype: "f32" as const };
    return [...plain, { ...plain[1], name: "upstream", inputs: [...plain[1].inputs, upstream] }];
  },
  secondOrder: true,
});

export interface CrossEntropyOptions {
  /** Target of rows that do not count; -100 as in PyTorch. */
  ignoreIndex?: number;
  labelSmoothing?: number;
  /** `mean` divides by the number of rows that count; `none` gives [N]. */
  reduction?: "mean" | "sum" | "none";
}

/** Cross-entropy of logits [N, classes] against class numbers [N], as torch.nn.functional.cross_entropy. */
export function crossEntropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const known = ["ignoreIndex", "labelSmoothing", "reduction"];
  const {
    ignoreIndex = -100,
    labelSmoothing = 0,
    reduction = "mean",
  } = checkOptions("crossEntropy", options, known);
  const [loss] = apply(crossEntropyOp, [logits, target], { ignoreIndex, labelSmoothing });
  if (reduction === "none") return loss;
  return reduction === "sum" ? sum(loss) : div(sum(loss), countSupervised(target, ignoreIndex));
}

/** How many targets are not `ignoreIndex`, as an f32 scalar. */
export function countSupervised(target: Tensor, ignoreIndex = -100): Tensor {
  return sum(cast(ne(target, ignoreIndex), "f32"));
}
