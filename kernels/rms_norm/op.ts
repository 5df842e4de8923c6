import { defineOp, opError } from "../../core/op.ts";
import { sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { add, mul, rsqrt, sub } from "../elementwise/index.ts";
import { plainGradient } from "../include/plain_gradient.ts";
import { rowPass, rowsOf, rowVariants } from "../include/row.ts";
import { checkNorm, normBackward, normBackwardSamples } from "../layer_norm/op.ts";
import { mean, sumTo } from "../reduce/index.ts";

interface RmsAttrs {
  eps: number;
}

/** 1 / sqrt(mean(x^2) + eps) of a row in float64. */
function rowScale(row: Float64Array, eps: number): number {
  let squares = 0;
  for (const v of row) squares += v * v;
  return 1 / Math.sqrt(squares / row.length + eps);
}

function forwardVariants(ADD: boolean) {
  return rowVariants<RmsAttrs>(
    "rms_norm/forward.wgsl",
    (call) => rowsOf(call.inputs[0]).cols,
    (call, worker) => {
      const { rows, cols } = rowsOf(call.inputs[0]);
      return rowPass(call, worker, {
        rows,
        cols,
        params: { width: cols, eps: call.attrs.eps },
        defines: { ADD },
      });
    },
  );
}

export const rmsNormOp = defineOp<RmsAttrs>({
  name: "rms_norm",
  doc: "y = x / sqrt(mean(x^2) + eps) * weight over the last axis. Zhang & Sennrich 2019.",
  infer(inputs, { eps }) {
    const [x, weight] = inputs;
    checkNorm("rms_norm", inputs, x, [weight], eps);
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x, weight], { eps }, [y]) {
    const { rows, cols } = rowsOf(x);
    for (let r = 0; r < rows; r++) {
      const row = x.data.subarray(r * cols, (r + 1) * cols);
      const scale = rowScale(row, eps);
      row.forEach((v, i) => {
        y.data[r * cols + i] = v * scale * weight.data[i];
      });
    }
  },
  gradient({ inputs: [x, weight], attrs, needs }, [dy]) {
    return dy ? rmsNormBackward(dy, x, weight, attrs.eps, needs[1]) : [null, null];
  },
  variants: forwardVariants(false),
  samples: () => {
    const of = (name: string, shape: number[]) => ({
      name,
      inputs: [{ shape }, { shape: [shape.at(-1) ?? 1] }],
      attrs: { eps: 1e-6 },
    });
    return [
      of("odd", [3, 7]),
      of("vec4", [2, 3, 20]),
      { ...of("wide", [2, 4100]), gradcheck: false },
      { ...of("strided", [6, 8]), inputs: [{ shape: [6, 8], layout: "transposed" }, { shape: [8] }] },
      of("empty", [0, 5]),
    ];
  },
  secondOrder: true,
});

/** [dx] of rms_norm, and dweight where it is wanted (null otherwise). */
function rmsNormBackward(
  dy: Tensor,
  x: Tensor,
  weight: Tensor,
  eps: number,
  weights: boolean,
): (Tensor | null)[] {
  const [dx, dweight = null] = apply(rmsNormBackwardOp, [dy, x, weight], { eps, weights });
  return [dx, dweight];
}

/** The derivative of rms_norm in plain ops. */
function plainBackward(dy: Tensor, x: Tensor, weight: Tensor, eps: number, weights: boolean): Tensor[] {
  const scale = rsqrt(add(mean(mul(x, x), -1, true), eps));
  const normal = mul(x, scale);
  const h = mul(dy, weight);
  const dx = mul(scale, sub(h, mul(normal, mean(mul(h, normal), -1, true))));
  return weights ? [dx, sumTo(mul(dy, normal), weight.shape)] : [dx];
}

const rmsNormBackwardOp = defineOp<RmsAttrs & { weights: boolean }>({
  name: "rms_norm_backward",
  doc: "dx and, with weights, dweight of rms_norm from (dy, x, weight).",
  infer(inputs, { weights, eps }) {
    const [dy, x, weight] = inputs;
    checkNorm("rms_norm_backward", inputs, x, [weight], eps);
    if (!sameShape(dy.shape, x.shape))
      throw opError("rms_norm_backward", inputs, "dy must have the shape of x");
    const vector = { shape: weight.shape, dtype: weight.dtype };
    return [{ shape: x.shape, dtype: x.dtype }, ...(weights ? [vector] : [])];
  },
  reference([dy, x, weight], { eps, weights }, [dx, dweight]) {
    const { rows, cols } = rowsOf(x);
    for (let r = 0; r < rows; r++) {
      const at = r * cols;
      const scale = rowScale(x.data.subarray(at, at + cols), eps);
      let pull = 0;
      for (let i = 0; i < cols; i++)
        pull += (dy.data[at + i] * weight.data[i] * x.data[at + i] * scale) / cols;
      for (let i = 0; i < cols; i++) {
        const normal = x.data[at + i] * scale;
        dx.data[at + i] = scale * (dy.data[at + i] * weight.data[i] - normal * pull);
        if (weights) dweight.data[i] += dy.data[at + i] * normal;
      }
    }
  },
  gradient: (context, cotangents) =>
    plainGradient(context, cotangents, (dy, x, weight) =>
      plainBackward(dy, x, weight, context.attrs.eps, context.attrs.weights),
    ),
  variants: rowVariants(
    "rms_norm/backward.wgsl",
    (call) => rowsOf(call.inputs[0]).cols,
    (call, worker) => normBackward(call, worker, { BIAS: false }),
  ),
  samples: () => normBackwardSamples(1e-6),
  secondOrder: true,
});

export const addRmsNormOp = defineOp<RmsAttrs>({
  name: "add_rms_norm",
  doc: "(y, s): s = x + residual and y = rms_norm(s, weight), in one pass over the residual stream.",
  infer(inputs, { eps }) {
    const [x, weight, residual] = inputs;
    checkNorm("add_rms_norm", inputs, x, [weight], eps);
    if (!residual || !sameShape(x.shape, residual.shape) || x.dtype !== residual.dtype) {
      throw opError("add_rms_norm", inputs, "x and residual must have one shape and dtype");
    }
    const like = { shape: x.shape, dtype: x.dtype };
    return [like, like];
  },
  reference([x, weight, residual], { eps }, [y, s]) {
    const { rows, cols } = rowsOf(x);
    for (let i = 0; i < s.data.length; i++) s.data[i] = x.data[i] + residual.data[i];
    for (let r = 0; r < rows; r++) {
      const row = s.data.subarray(r * cols, (r + 1) * cols);
      const scale = rowScale(row, eps);
      row.forEach((v, i) => {
        y.data[r * cols + i] = v * scale * weight.data[i];
      });
    }
  },
  gradient({ inputs: [, weight], outputs: [, s], attrs, needs }, [dy, ds]) {
    const [dx, dweight] = dy ? rmsNormBackward(dy, s, weight, attrs.eps, needs[1]) : [null, null];
    const both = dx && ds ? add(dx, ds) : (dx ?? ds);
    return [both, dweight, both];
  },
  variants: forwardVariants(true),
  samples: () => {
    const of = (name: string, shape: number[]) => ({
      name,
      inputs: [{ shape }, { shape: [shape.at(-1) ?? 1] }, { shape }],
      attrs: { eps: 1e-6 },
    });
    return [of("odd", [3, 7]), of("vec4", [2, 3, 20]), { ...of("wide", [2, 4100]), gradcheck: false }];
  },
  secondOrder: true,
});

/** Root mean square normalisation of x [..., D] over its last axis, scaled by weight [D]. */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  return apply(rmsNormOp, [x, weight], { eps })[0];
}

/** `{ normed: rmsNorm(x + residual), sum: x + residual }` in one pass; for pre-norm residual streams. */
export function addRmsNorm(
  x: Tensor,
  residual: Tensor,
  weight: Tensor,
  eps = 1e-6,
): { normed: Tensor; sum: Tensor } {
  const [normed, sum] = apply(addRmsNormOp, [x, weight, residual], { eps });
  return { normed, sum };
}
