import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import {
  type Call,
  defineOp,
  type Lowering,
  type Op,
  opError,
  type Pass,
  type TensorMeta,
} from "../../core/op.ts";
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

interface BackwardAttrs extends NormAttrs {
  /** Whether the gradients of weight and bias are computed too: not for frozen norms. */
  weights: boolean;
}

/** Layer norm is centred and has a bias; RMS norm is neither. */
interface Kind {
  name: string;
  doc: string;
  centred: boolean;
  /** Of the samples. */
  eps: number;
}

/** Shape rule of both norms: x [..., D] and vectors [D]. */
function check(
  name: string,
  inputs: readonly TensorMeta[],
  x: TensorMeta,
  vectors: readonly TensorMeta[],
  eps: number,
): void {
  if (!(eps >= 0)) throw new KilnError(`${name}: eps is ${eps}; expected a number from 0 on`);
  const width = x?.shape.at(-1);
  const fits = vectors.every((v) => v.shape.length === 1 && v.shape[0] === width && isFloat(v.dtype));
  if (fits && width && isFloat(x.dtype)) return;
  throw opError(
    name,
    inputs,
    "expected a float tensor of rank 1 or more and vectors as long as its last axis",
  );
}

/** Mean (0 unless centred) and 1 / sqrt(var + eps) of a row in float64. */
function rowStats(row: Float64Array, eps: number, centred: boolean): { mean: number; scale: number } {
  let mean = 0;
  if (centred) for (const v of row) mean += v / row.length;
  let variance = 0;
  for (const v of row) variance += (v - mean) ** 2 / row.length;
  return { mean, scale: 1 / Math.sqrt(variance + eps) };
}

function defineForward({ name, doc, centred, eps }: Kind, backward: Op<BackwardAttrs>): Op<NormAttrs> {
  const vectors = (width: number) => Array.from({ length: centred ? 2 : 1 }, () => ({ shape: [width] }));
  return defineOp<NormAttrs>({
    name,
    doc,
    infer(inputs, attrs) {
      const [x, weight, bias] = inputs;
      check(name, inputs, x, centred ? [weight, bias] : [weight], attrs.eps);
      return [{ shape: x.shape, dtype: x.dtype }];
    },
    reference([x, weight, bias], attrs, [y]) {
      const { rows, cols } = rowsOf(x);
      for (let r = 0; r < rows; r++) {
        const row = x.data.subarray(r * cols, (r + 1) * cols);
        const { mean, scale } = rowStats(row, attrs.eps, centred);
        row.forEach((v, i) => {
          y.data[r * cols + i] = (v - mean) * scale * weight.data[i] + (bias?.data[i] ?? 0);
        });
      }
    },
    gradient({ inputs: [x, weight, bias], attrs, needs }, [dy]) {
      if (!dy) return centred ? [null, null, null] : [null, null];
      if (needs[1]) return apply(backward, [dy, x, weight], { ...attrs, weights: true });
      const [dx] = apply(backward, [dy, x, weight], { ...attrs, weights: false });
      return centred ? [dx, null, needs[2] ? sumTo(dy, bias.shape) : null] : [dx, null];
    },
    variants: rowVariants(
      "norm/forward.wgsl",
      (call) => rowsOf(call.inputs[0]).cols,
      (call, worker) => {
        const { rows, cols } = rowsOf(call.inputs[0]);
        const params = { width: cols, eps: call.attrs.eps };
        return rowPass(call, worker, { rows, cols, params, defines: { CENTRED: centred } });
      },
    ),
    samples: () => {
      const of = (name: string, shape: number[]) => ({
        name,
        inputs: [{ shape }, ...vectors(shape.at(-1) ?? 1)],
        attrs: { eps },
      });
      return [
        of("odd", [3, 7]),
        of("vec4", [2, 3, 20]),
        { ...of("wide", [2, 4100]), gradcheck: false },
        { ...of("strided", [6, 8]), inputs: [{ shape: [6, 8], layout: "transposed" }, ...vectors(8)] },
        {
          ...of("far from zero", [2, 64]),
          inputs: [{ shape: [2, 64], range: [99, 101] }, ...vectors(64)],
          atol: 1e-3,
          gradcheck: false,
        },
        of("empty", [0, 5]),
      ];
    },
    secondOrder: true,
  });
}

/** The derivative of a norm in plain ops. */
function plainBackward(centred: boolean, { eps, weights }: BackwardAttrs) {
  return (dy: Tensor, x: Tensor, weight: Tensor): Tensor[] => {
    const distance = centred ? centre(x, [-1]) : x;
    const scale = rsqrt(add(mean(mul(distance, distance), -1, true), eps));
    const normal = mul(distance, scale);
    const h = mul(dy, weight);
    const along = mul(normal, mean(mul(h, normal), -1, true));
    const dx = mul(scale, sub(centred ? sub(h, mean(h, -1, true)) : h, along));
    const vectors = () => [mul(dy, normal), ...(centred ? [dy] : [])].map((t) => sumTo(t, weight.shape));
    return weights ? [dx, ...vectors()] : [dx];
  };
}

/** dx by rows, then dweight (and dbias) by columns in two deterministic steps. */
function planBackward(call: Call<BackwardAttrs>, worker: RowWorker, centred: boolean): Pass | Lowering {
  const { rows, cols } = rowsOf(call.inputs[1]);
  const { eps, weights } = call.attrs;
  const row = rowPass(call, worker, {
    rows,
    cols,
    params: { width: cols, eps },
    defines: { STATS: weights, CENTRED: centred },
  });
  if (!weights) return row;
  const vec = cols % 4 === 0 ? 4 : 1;
  const block = Math.max(16, Math.ceil(rows / 128));
  const blocks = Math.ceil(rows / block);
  const wide = cols / vec;
  const defines = { VEC: vec, BIAS: centred };
  return {
    temps: [
      { dtype: "f32", length: rows * 4 },
      { dtype: "f32", length: blocks * cols * (centred ? 2 : 1) },
    ],
    passes: [
      { ...row, bind: ["in0", "in1", "in2", "out0", "tmp0"] },
      {
        file: "norm/columns.wgsl",
        defines,
        params: { rows, cols: wide, block, blocks },
        grid: foldGrid(Math.ceil((wide * blocks) / 64), call.profile),
        bind: ["in0", "in1", "tmp0", "tmp1"],
      },
      {
        file: "norm/gather.wgsl",
        defines,
        params: { cols: wide, blocks },
        grid: foldGrid(Math.ceil(wide / 64), call.profile),
        bind: centred ? ["tmp1", "out1", "out2"] : ["tmp1", "out1"],
      },
    ],
  };
}

function defineBackward({ name: of, centred, eps }: Kind): Op<BackwardAttrs> {
  const name = `${of}_backward`;
  return defineOp<BackwardAttrs>({
    name,
    doc: `dx and, with weights, dweight${centred ? " and dbias" : ""} of ${of} from (dy, x, weight).`,
    infer(inputs, attrs) {
      const [dy, x, weight] = inputs;
      check(name, inputs, x, [weight], attrs.eps);
      if (!sameShape(dy.shape, x.shape)) throw opError(name, inputs, "dy must have the shape of x");
      const vector = { shape: weight.shape, dtype: weight.dtype };
      const vectors = centred ? [vector, vector] : [vector];
      return [{ shape: x.shape, dtype: x.dtype }, ...(attrs.weights ? vectors : [])];
    },
    reference([dy, x, weight], attrs, [dx, dweight, dbias]) {
      const { rows, cols } = rowsOf(x);
      for (let r = 0; r < rows; r++) {
        const at = r * cols;
        const { mean, scale } = rowStats(x.data.subarray(at, at + cols), attrs.eps, centred);
        let [meanSlope, meanProduct] = [0, 0];
        for (let i = 0; i < cols; i++) {
          const h = dy.data[at + i] * weight.data[i];
          if (centred) meanSlope += h / cols;
          meanProduct += (h * (x.data[at + i] - mean) * scale) / cols;
        }
        for (let i = 0; i < cols; i++) {
          const normal = (x.data[at + i] - mean) * scale;
          dx.data[at + i] = scale * (dy.data[at + i] * weight.data[i] - meanSlope - normal * meanProduct);
          if (dweight) dweight.data[i] += dy.data[at + i] * normal;
          if (dbias) dbias.data[i] += dy.data[at + i];
        }
      }
    },
    gradient: (context, cotangents) =>
      plainGradient(context, cotangents, plainBackward(centred, context.attrs)),
    variants: rowVariants(
      "norm/backward.wgsl",
      (call) => rowsOf(call.inputs[0]).cols,
      (call, worker) => planBackward(call, worker, centred),
    ),
    samples: () => {
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
    },
    secondOrder: true,
  });
}

const layer: Kind = {
  name: "layer_norm",
  doc: "y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var biased. Ba et al. 2016.",
  centred: true,
  eps: 1e-5,
};
const rms: Kind = {
  name: "rms_norm",
  doc: "y = x / sqrt(mean(x^2) + eps) * weight over the last axis. Zhang & Sennrich 2019.",
  centred: false,
  eps: 1e-6,
};
const layerNormOp = defineForward(layer, defineBackward(layer));
const rmsNormOp = defineForward(rms, defineBackward(rms));

/** Layer normalisation of x [..., D] over its last axis, scaled by weight [D] and moved by bias [D]. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  return apply(layerNormOp, [x, weight, bias], { eps })[0];
}

/** Root mean square normalisation of x [..., D] over its last axis, scaled by weight [D]. */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  return apply(rmsNormOp, [x, weight], { eps })[0];
}
