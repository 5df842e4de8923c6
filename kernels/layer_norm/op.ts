import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { type Call, defineOp, type Lowering, opError, type Pass, type TensorMeta } from "../../core/op.ts";
import { sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { add, mul, rsqrt, sub } from "../elementwise/index.ts";
import { foldGrid } from "../include/grid.ts";
import { plainGradient } from "../include/plain_gradient.ts";
import { type RowWorker, rowPass, rowsOf, rowVariants } from "../include/row.ts";
import { mean, sumTo } from "../reduce/index.ts";
import { centre } from "../reduce/statistics.ts";

interface NormAttrs {
  eps: number;
}

interface NormBackwardAttrs extends NormAttrs {
  /** Whether the gradients of weight and bias are computed too: not for frozen norms. */
  weights: boolean;
}

/** Shape rule of both norms: x [..., D] and vectors [D]. */
export function checkNorm(
  name: string,
  inputs: readonly TensorMeta[],
  x: TensorMeta,
  vectors: readonly TensorMeta[],
  eps: number,
): void {
  if (!(eps >= 0)) throw new KilnError(`${name}: eps is ${eps}; expected a number from 0 on`);
  const width = x?.shape.at(-1);
  const fits = vectors.every((v) => v.shape.length === 1 && v.shape[0] === width && isFloat(v.dtype));
  if (width === undefined || width === 0 || !fits || !isFloat(x.dtype)) {
    throw opError(
      name,
      inputs,
      "expected a float tensor of rank 1 or more and vectors as long as its last axis",
    );
  }
}

/**
 * The passes of a norm's backward op: dx by rows, then dweight (and dbias) by columns in two deterministic steps.
 * Inputs dy, x, weight; outputs dx, dweight and perhaps dbias.
 */
export function normBackward(
  call: Call<NormBackwardAttrs>,
  worker: RowWorker,
  defines: { BIAS: boolean },
): Pass | Lowering {
  const { rows, cols } = rowsOf(call.inputs[1]);
  const { eps, weights } = call.attrs;
  const row = rowPass(call, worker, {
    rows,
    cols,
    params: { width: cols, eps },
    defines: { STATS: weights },
  });
  if (!weights) return row;
  const vec = cols % 4 === 0 ? 4 : 1;
  const block = Math.max(16, Math.ceil(rows / 128));
  const blocks = Math.ceil(rows / block);
  const wide = cols / vec;
  const outputs = defines.BIAS ? (["out1", "out2"] as const) : (["out1"] as const);
  return {
    temps: [
      { dtype: "f32", length: rows * 4 },
      { dtype: "f32", length: blocks * cols * (defines.BIAS ? 2 : 1) },
    ],
    passes: [
      { ...row, bind: ["in0", "in1", "in2", "out0", "tmp0"] },
      {
        file: "layer_norm/columns.wgsl",
        defines: { VEC: vec, ...defines },
        params: { rows, cols: wide, block, blocks },
        grid: foldGrid(Math.ceil((wide * blocks) / 64), call.profile),
        bind: ["in0", "in1", "tmp0", "tmp1"],
      },
      {
        file: "layer_norm/gather.wgsl",
        defines: { VEC: vec, ...defines },
        params: { cols: wide, blocks },
        grid: foldGrid(Math.ceil(wide / 64), call.profile),
        bind: ["tmp1", ...outputs],
      },
    ],
  };
}

/** Mean and 1 / sqrt(var + eps) of a row in float64. */
function rowStats(row: Float64Array, eps: number): { mean: number; scale: number } {
  let mean = 0;
  for (const v of row) mean += v / row.length;
  let variance = 0;
  for (const v of row) variance += (v - mean) ** 2 / row.length;
  return { mean, scale: 1 / Math.sqrt(variance + eps) };
}

export const layerNormOp = defineOp<NormAttrs>({
  name: "layer_norm",
  doc: "y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var biased. Ba et al. 2016.",
  infer(inputs, { eps }) {
    const [x, weight, bias] = inputs;
    checkNorm("layer_norm", inputs, x, [weight, bias], eps);
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x, weight, bias], { eps }, [y]) {
    const { rows, cols } = rowsOf(x);
    for (let r = 0; r < rows; r++) {
      const row = x.data.subarray(r * cols, (r + 1) * cols);
      const { mean, scale } = rowStats(row, eps);
      row.forEach((v, i) => {
        y.data[r * cols + i] = (v - mean) * scale * weight.data[i] + bias.data[i];
      });
    }
  },
  gradient({ inputs: [x, weight, bias], attrs, needs }, [dy]) {
    if (!dy) return [null, null, null];
    if (needs[1]) return apply(layerNormBackwardOp, [dy, x, weight], { ...attrs, weights: true });
    const [dx] = apply(layerNormBackwardOp, [dy, x, weight], { ...attrs, weights: false });
    return [dx, null, needs[2] ? sumTo(dy, bias.shape) : null];
  },
  variants: rowVariants(
    "layer_norm/forward.wgsl",
    (call) => rowsOf(call.inputs[0]).cols,
    (call, worker) => {
      const { rows, cols } = rowsOf(call.inputs[0]);
      return rowPass(call, worker, { rows, cols, params: { width: cols, eps: call.attrs.eps } });
    },
  ),
  samples: () => {
    const of = (name: string, shape: number[]) => {
      const width = shape.at(-1) ?? 1;
      return { name, inputs: [{ shape }, { shape: [width] }, { shape: [width] }], attrs: { eps: 1e-5 } };
    };
    return [
      of("odd", [3, 7]),
      of("vec4", [2, 3, 20]),
      { ...of("wide", [2, 4100]), gradcheck: false },
      {
        ...of("far from zero", [2, 64]),
        inputs: [{ shape: [2, 64], range: [99, 101] }, { shape: [64] }, { shape: [64] }],
        atol: 1e-3,
        gradcheck: false,
      },
      of("empty", [0, 5]),
    ];
  },
  secondOrder: true,
});

/** The derivative of layer_norm in plain ops. */
function plainBackward(dy: Tensor, x: Tensor, weight: Tensor, { eps, weights }: NormBackwardAttrs): Tensor[] {
  const centred = centre(x, [-1]);
  const scale = rsqrt(add(mean(mul(centred, centred), -1, true), eps));
  const normal = mul(centred, scale);
  const h = mul(dy, weight);
  const pull = mul(normal, mean(mul(h, normal), -1, true));
  const dx = mul(scale, sub(sub(h, mean(h, -1, true)), pull));
  return weights ? [dx, sumTo(mul(dy, normal), weight.shape), sumTo(dy, weight.shape)] : [dx];
}

const layerNormBackwardOp = defineOp<NormBackwardAttrs>({
  name: "layer_norm_backward",
  doc: "dx and, with weights, dweight and dbias of layer_norm from (dy, x, weight).",
  infer(inputs, { weights, eps }) {
    const [dy, x, weight] = inputs;
    checkNorm("layer_norm_backward", inputs, x, [weight], eps);
    if (!sameShape(dy.shape, x.shape))
      throw opError("layer_norm_backward", inputs, "dy must have the shape of x");
    const vector = { shape: weight.shape, dtype: weight.dtype };
    return [{ shape: x.shape, dtype: x.dtype }, ...(weights ? [vector, vector] : [])];
  },
  reference([dy, x, weight], { eps, weights }, [dx, dweight, dbias]) {
    const { rows, cols } = rowsOf(x);
    for (let r = 0; r < rows; r++) {
      const at = r * cols;
      const { mean, scale } = rowStats(x.data.subarray(at, at + cols), eps);
      let slope = 0;
      let pull = 0;
      for (let i = 0; i < cols; i++) {
        const h = dy.data[at + i] * weight.data[i];
        slope += h / cols;
        pull += (h * (x.data[at + i] - mean) * scale) / cols;
      }
      for (let i = 0; i < cols; i++) {
        const normal = (x.data[at + i] - mean) * scale;
        dx.data[at + i] = scale * (dy.data[at + i] * weight.data[i] - slope - normal * pull);
        if (!weights) continue;
        dweight.data[i] += dy.data[at + i] * normal;
        dbias.data[i] += dy.data[at + i];
      }
    }
  },
  gradient: (context, cotangents) =>
    plainGradient(context, cotangents, (dy, x, weight) => plainBackward(dy, x, weight, context.attrs)),
  variants: rowVariants(
    "layer_norm/backward.wgsl",
    (call) => rowsOf(call.inputs[0]).cols,
    (call, worker) => normBackward(call, worker, { BIAS: true }),
  ),
  samples: () => normBackwardSamples(1e-5),
  secondOrder: true,
});

/** Samples of either norm's backward op. */
export function normBackwardSamples(eps: number) {
  const of = (name: string, shape: number[], weights: boolean) => ({
    name,
    inputs: [{ shape }, { shape }, { shape: [shape.at(-1) ?? 1] }],
    attrs: { eps, weights },
    atol: 5e-5,
  });
  return [
    of("odd", [3, 7], true),
    of("vec4", [2, 3, 12], true),
    of("frozen", [3, 8], false),
    { ...of("many rows", [300, 33], true), gradcheck: false },
    { ...of("wide", [2, 4100], true), gradcheck: false },
    of("empty", [0, 5], true),
  ];
}

/** Layer normalisation of x [..., D] over its last axis, scaled by weight [D] and moved by bias [D]. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  return apply(layerNormOp, [x, weight, bias], { eps })[0];
}
