import { isFloat } from "../../core/dtype.ts";
import {
  type Call,
  defineOp,
  type Op,
  opError,
  type RefTensor,
  type Sample,
  type TensorMeta,
} from "../../core/op.ts";
import { normalizeDim, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { exp, mul, neg, sub } from "../elementwise/index.ts";
import { type RowWorker, rowPass, rowsOf, rowVariants } from "../include/row.ts";
import { sum } from "../reduce/index.ts";
import { reshape, transpose } from "../views/index.ts";

type None = Record<string, never>;

function inferForward(name: string, inputs: readonly TensorMeta[]) {
  const [x] = inputs;
  if (inputs.length !== 1 || x.shape.length === 0 || !isFloat(x.dtype)) {
    throw opError(name, inputs, "expected one f32 or f16 tensor of rank 1 or more");
  }
  return [{ shape: x.shape, dtype: x.dtype }];
}

function inferBackward(name: string, inputs: readonly TensorMeta[]) {
  const [dy, y] = inputs;
  if (inputs.length !== 2 || !sameShape(dy.shape, y.shape) || !isFloat(dy.dtype) || !isFloat(y.dtype)) {
    throw opError(name, inputs, "expected the cotangent and the output, of one shape");
  }
  return [{ shape: dy.shape, dtype: dy.dtype }];
}

/** Calls `body` with the offset of each row of the last axis. */
function forEachRow(t: RefTensor, body: (offset: number, cols: number) => void): void {
  const { rows, cols } = rowsOf(t);
  for (let row = 0; row < rows; row++) body(row * cols, cols);
}

/** Rounding to f16 before the division would cost digits. */
const online = ({ profile, outputs }: Call<None>) =>
  profile.class === "gpu" || profile.subgroupSize > 4 || outputs[0].dtype === "f16";

function variants(file: string, log: boolean) {
  const plan = (call: Call<None>, worker: RowWorker) =>
    rowPass(call, worker, { ...rowsOf(call.inputs[0]), defines: { LOG: log, ONLINE: online(call) } });
  return rowVariants<None>(file, (call) => rowsOf(call.inputs[0]).cols, plan);
}

function samples(): Sample<None>[] {
  const nothing = new Array<number>(5).fill(Number.NEGATIVE_INFINITY);
  const masked = [0.5, -1, Number.NEGATIVE_INFINITY, 2, Number.NEGATIVE_INFINITY, 0.25];
  return [
    { name: "odd", inputs: [{ shape: [3, 7] }], attrs: {} },
    { name: "vec4", inputs: [{ shape: [5, 2, 132], range: [-20, 20] }], attrs: {} },
    { name: "wide", inputs: [{ shape: [2, 5003], range: [-30, 30] }], attrs: {}, gradcheck: false },
    { name: "masked", inputs: [{ shape: [2, 3], values: masked }], attrs: {}, gradcheck: false },
    { name: "nothing", inputs: [{ shape: [2, 5], values: nothing }], attrs: {}, gradcheck: false },
    { name: "one", inputs: [{ shape: [4, 1] }], attrs: {} },
    { name: "strided", inputs: [{ shape: [6, 8], layout: "transposed" }], attrs: {} },
    { name: "empty", inputs: [{ shape: [0, 5] }], attrs: {} },
  ];
}

function backwardSamples(outputs: readonly [number, number]): Sample<None>[] {
  const of = (name: string, shape: number[]) => ({
    name,
    inputs: [{ shape }, { shape, range: outputs }],
    attrs: {},
  });
  return [of("odd", [3, 7]), of("vec4", [5, 2, 12]), { ...of("wide", [2, 4100]), gradcheck: false }];
}

/** The largest value; NaN where there is one. */
function peakOf(row: Float64Array): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const v of row) top = Math.max(top, v);
  return top;
}

function defineForward(name: string, doc: string, log: boolean, backward: Op<None>): Op<None> {
  return defineOp<None>({
    name,
    doc,
    infer: (inputs) => inferForward(name, inputs),
    reference([x], _attrs, [y]) {
      forEachRow(x, (at, cols) => {
        const row = x.data.subarray(at, at + cols);
        const top = peakOf(row);
        let all = 0;
        for (const v of row) all += Math.exp(v - top);
        row.forEach((v, i) => {
          y.data[at + i] = log ? v - top - Math.log(all) : Math.exp(v - top) / all;
        });
      });
    },
    gradient: ({ outputs: [y] }, [dy]) => [dy && apply(backward, [dy, y], {})[0]],
    variants: variants("softmax/forward.wgsl", log),
    samples,
    secondOrder: true,
  });
}

const softmaxBackwardOp = defineOp<None>({
  name: "softmax_backward",
  doc: "dx = y * (dy - sum(dy * y)) over the last axis: softmax's derivative from its output.",
  infer: (inputs) => inferBackward("softmax_backward", inputs),
  reference([dy, y], _attrs, [dx]) {
    forEachRow(dy, (at, cols) => {
      let all = 0;
      for (let i = at; i < at + cols; i++) all += dy.data[i] * y.data[i];
      for (let i = at; i < at + cols; i++) dx.data[i] = y.data[i] * (dy.data[i] - all);
    });
  },
  gradient({ inputs: [dy, y], needs }, [g]) {
    if (!g) return [null, null];
    const byOutput = () => {
      const centred = sub(mul(g, dy), mul(g, sum(mul(dy, y), -1, true)));
      return sub(centred, mul(dy, sum(mul(g, y), -1, true)));
    };
    return [needs[0] ? softmaxBackward(g, y) : null, needs[1] ? byOutput() : null];
  },
  variants: variants("softmax/backward.wgsl", false),
  samples: () => backwardSamples([0, 0.5]),
  secondOrder: true,
});

const logSoftmaxBackwardOp = defineOp<None>({
  name: "log_softmax_backward",
  doc: "dx = dy - exp(y) * sum(dy) over the last axis: log_softmax's derivative from its output.",
  infer: (inputs) => inferBackward("log_softmax_backward", inputs),
  reference([dy, y], _attrs, [dx]) {
    forEachRow(dy, (at, cols) => {
      let all = 0;
      for (let i = at; i < at + cols; i++) all += dy.data[i];
      for (let i = at; i < at + cols; i++) dx.data[i] = dy.data[i] - Math.exp(y.data[i]) * all;
    });
  },
  gradient({ inputs: [dy, y], needs }, [g]) {
    if (!g) return [null, null];
    const weighted = mul(g, exp(y));
    const byCotangent = () => sub(g, sum(weighted, -1, true));
    return [needs[0] ? byCotangent() : null, needs[1] ? neg(mul(weighted, sum(dy, -1, true))) : null];
  },
  variants: variants("softmax/backward.wgsl", true),
  samples: () => backwardSamples([-5, -0.1]),
  secondOrder: true,
});

const softmaxOp = defineForward(
  "softmax",
  "y = exp(x - max(x)) / sum(exp(x - max(x))) over the last axis; NaN throughout a row that holds NaN or +infinity, or nothing but -infinity, as torch.softmax.",
  false,
  softmaxBackwardOp,
);
const logSoftmaxOp = defineForward(
  "log_softmax",
  "y = x - log(sum(exp(x))) over the last axis, computed around the row's maximum; NaN throughout a row that holds NaN or +infinity, or nothing but -infinity.",
  true,
  logSoftmaxBackwardOp,
);

/** dx of softmax over the last axis, from dy and the output y. */
export function softmaxBackward(dy: Tensor, y: Tensor): Tensor {
  return apply(softmaxBackwardOp, [dy, y], {})[0];
}

/** Softmax over `dim` (the last by default). */
export function softmax(x: Tensor, dim = -1): Tensor {
  return overDim("softmax", x, dim, (t) => apply(softmaxOp, [t], {})[0]);
}

/** Logarithm of softmax over `dim` (the last by default). */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return overDim("log_softmax", x, dim, (t) => apply(logSoftmaxOp, [t], {})[0]);
}

/** Applies an op on the last axis to another axis. */
function overDim(name: string, x: Tensor, dim: number, body: (t: Tensor) => Tensor): Tensor {
  const axis = normalizeDim(name, dim, x);
  if (x.rank === 0) return reshape(body(reshape(x, [1])), []);
  return axis === x.rank - 1 ? body(x) : transpose(body(transpose(x, axis, -1)), axis, -1);
}
