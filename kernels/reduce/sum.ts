import type { DType } from "../../core/dtype.ts";
import { defineOp, findOp, type Op, opError } from "../../core/op.ts";
import {
  broadcastStrides,
  checkList,
  checkShape,
  normalizeDims,
  rankOf,
  type Shape,
  sameShape,
  show,
} from "../../core/shape.ts";
import { apply, recordView, type Tensor } from "../../core/tensor.ts";
import { dropAxes } from "../views/axes.ts";
import { type ReduceAttrs, type Reducer, reducedShape, reduceReference, reduceVariants } from "./lower.ts";

// Sum and broadcast are each other's derivative, hence one file.

export interface SumAttrs extends ReduceAttrs {
  /** Multiplies the sum before it is stored (1 / n makes a mean); floats only. */
  readonly scale?: number;
}

export const sumReducer: Reducer = { combine: "a + b", f: (a, b) => a + b, identity: () => 0 };

const sumOp: Op<SumAttrs> = defineOp<SumAttrs>({
  name: "sum",
  doc: "Sum over neighbouring axes, which stay with extent 1, times scale. Accumulates in f32 (floats) or i32 (bool, i32); integers wrap around at 2^32. Floats are added in runs of about sqrt(n): the error is at most 2^-24 (256 + 2 sqrt(n)) sum |x|.",
  infer(inputs, attrs) {
    const shape = reducedShape("sum", inputs, attrs);
    return [{ shape, dtype: sumDtype(inputs[0].dtype) }];
  },
  reference([x], attrs, [out]) {
    reduceReference(x!, attrs, out!, sumReducer);
    const { scale = 1 } = attrs;
    if (scale !== 1) for (let i = 0; i < out!.data.length; i++) out!.data[i] *= scale;
  },
  gradient({ inputs, attrs }, [dy]) {
    const { scale = 1 } = attrs;
    const scaled = scale === 1 ? dy! : apply(findOp("mul"), [dy!], { b: scale } as never)[0];
    return [expand(scaled, inputs[0].shape)];
  },
  variants: reduceVariants<SumAttrs>(sumReducer, ({ scale = 1 }) => scale),
  secondOrder: true,
  samples: () => [
    { name: "rows", inputs: [{ shape: [5, 64] }], attrs: { dims: [1] } },
    { name: "odd rows", inputs: [{ shape: [3, 5, 7] }], attrs: { dims: [2] } },
    { name: "columns", inputs: [{ shape: [9, 8] }], attrs: { dims: [0] } },
    { name: "middle", inputs: [{ shape: [3, 5, 7] }], attrs: { dims: [1], scale: 0.2 } },
    { name: "scalar", inputs: [{ shape: [] }], attrs: { dims: [] } },
    {
      name: "all in two passes",
      inputs: [{ shape: [90, 111] }],
      attrs: { dims: [0, 1] },
      gradcheck: false,
      atol: 1e-3,
    },
    {
      name: "columns in two passes",
      inputs: [{ shape: [700, 6] }],
      attrs: { dims: [0] },
      gradcheck: false,
      atol: 1e-3,
    },
    {
      name: "wide columns in two passes",
      inputs: [{ shape: [2, 300, 8] }],
      attrs: { dims: [1] },
      gradcheck: false,
      atol: 1e-3,
    },
    { name: "bool", inputs: [{ shape: [4, 9], dtype: "bool" }], attrs: { dims: [0] } },
    { name: "nothing", inputs: [{ shape: [3, 0] }], attrs: { dims: [1] } },
  ],
});

function sumDtype(dtype: DType): DType {
  return dtype === "bool" ? "i32" : dtype;
}

/** Runs of neighbouring axes, innermost first: a reduction takes one run at a time. */
export function runsOf(dims: readonly number[]): number[][] {
  const runs: number[][] = [];
  for (const dim of dims) {
    if (runs[0]?.at(-1) === dim - 1) runs[0].push(dim);
    else runs.unshift([dim]);
  }
  return runs;
}

/**
 * Sum over `dim` (one, several, or all when absent). Floats accumulate in f32; bool counts as i32.
 * @param keepdim keeps the reduced axes with extent 1.
 */
export function sum(x: Tensor, dim?: number | readonly number[] | null, keepdim = false): Tensor {
  const dims = normalizeDims("sum", dim, x);
  const kept = sumKeeping(x, dims);
  return keepdim ? kept : dropAxes(kept, dims);
}

/** Sum (times scale) over axes that stay with extent 1. */
export function sumKeeping(x: Tensor, dims: readonly number[], scale = 1): Tensor {
  const runs = runsOf(dims);
  if (runs.length === 0) runs.push([]);
  return runs.reduce(
    (t, run, i) => apply(sumOp, [t], { dims: run, scale: i === runs.length - 1 ? scale : 1 })[0],
    x,
  );
}

/** Sums over the axes along which `shape` would have been broadcast to x's shape: the derivative of broadcasting. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  checkList("sumTo", "extents", shape);
  const rank = rankOf("sumTo", x);
  if (sameShape(x.shape, shape)) return x;
  const extra = rank - shape.length;
  const fits = extra >= 0 && shape.every((extent, i) => extent === 1 || extent === x.shape[extra + i]);
  if (!fits) throw opError("sumTo", [x], `expected a target that broadcasts to it, ${show(shape)} does not`);
  const dims = x.shape
    .map((_, i) => i)
    .filter((i) => i < extra || (shape[i - extra] === 1 && x.shape[i] !== 1));
  const leading = Array.from({ length: extra }, (_, i) => i);
  return dropAxes(sumKeeping(x, dims), leading);
}

/**
 * A view that repeats axes of extent 1, and adds leading axes, to fill `shape`; -1 keeps an axis.
 * No memory is taken.
 */
export function expand(x: Tensor, shape: Shape): Tensor {
  checkList("expand", "extents", shape);
  const extra = shape.length - rankOf("expand", x);
  const target = shape.map((extent, i) => (extent === -1 ? (x.shape[i - extra] ?? -1) : extent));
  const fits = extra >= 0 && x.shape.every((extent, i) => extent === 1 || extent === target[extra + i]);
  if (!fits || target.includes(-1)) throw opError("expand", [x], `cannot be repeated to fill ${show(shape)}`);
  checkShape("expand", target);
  if (sameShape(x.shape, target)) return x;
  const out = x.asStrided(target, broadcastStrides(x.shape, x.strides, target), x.offset);
  return recordView(out, x, "expand", (dy) => sumTo(dy, x.shape));
}
