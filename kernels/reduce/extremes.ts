import type { DType } from "../../core/dtype.ts";
import { isFloat } from "../../core/dtype.ts";
import { defineOp, type GradientContext, type Op, type Sample } from "../../core/op.ts";
import { normalizeDims } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { cast, div, eq, mul } from "../elementwise/index.ts";
import { pad } from "../pad/index.ts";
import { dropAxes, insertAxes } from "../views/axes.ts";
import { flip, narrow, permute, reshape } from "../views/index.ts";
import {
  blocks,
  type ReduceAttrs,
  type Reducer,
  reducedShape,
  reduceReference,
  reduceVariants,
} from "./lower.ts";
import { runsOf, sumKeeping } from "./sum.ts";

const lowest = (dtype: DType) =>
  isFloat(dtype) ? Number.NEGATIVE_INFINITY : dtype === "i32" ? -(2 ** 31) : 0;
const highest = (dtype: DType) => {
  if (isFloat(dtype)) return Number.POSITIVE_INFINITY;
  return dtype === "i32" || dtype === "bool" ? 2 ** 31 - 1 : 2 ** 32 - 1;
};

const samples = (): Sample<ReduceAttrs>[] => [
  { name: "rows", inputs: [{ shape: [5, 64] }], attrs: { dims: [1] } },
  { name: "odd", inputs: [{ shape: [3, 5, 7] }], attrs: { dims: [2] } },
  { name: "columns", inputs: [{ shape: [9, 8] }], attrs: { dims: [0] } },
  {
    name: "all",
    inputs: [{ shape: [40, 111], range: [0.999, 1.001] }],
    attrs: { dims: [0, 1] },
    gradcheck: false,
    atol: 1e-4,
  },
  { name: "i32", inputs: [{ shape: [3, 5], dtype: "i32", range: [-9, 9] }], attrs: { dims: [1] } },
];

function reduction(
  name: string,
  doc: string,
  reducer: Reducer,
  slope: (x: Tensor, y: Tensor, dims: readonly number[]) => Tensor,
): Op<ReduceAttrs> {
  return defineOp<ReduceAttrs>({
    name,
    doc,
    infer(inputs, attrs) {
      const shape = reducedShape(name, inputs, attrs);
      return [{ shape, dtype: inputs[0].dtype === "bool" ? "i32" : inputs[0].dtype }];
    },
    reference: ([x], attrs, [out]) => reduceReference(x!, attrs, out!, reducer),
    gradient: ({ inputs, outputs, attrs }: GradientContext<ReduceAttrs>, [dy]) => [
      mul(dy!, slope(inputs[0], outputs[0], attrs.dims)),
    ],
    variants: reduceVariants(reducer),
    secondOrder: true,
    samples,
  });
}

/** 1 / (number of extreme elements) at each of them, 0 elsewhere: PyTorch's rule for ties. */
function evenly(x: Tensor, y: Tensor, dims: readonly number[]): Tensor {
  const mask = cast(eq(x, y), x.dtype);
  return div(mask, sumKeeping(mask, dims));
}

const amaxOp = reduction(
  "amax",
  "The largest element over neighbouring axes, which stay with extent 1; NaN if any is. Elements that tie share the gradient evenly.",
  { combine: "max(a, b)", f: Math.max, identity: lowest, losesNaN: true },
  evenly,
);

const aminOp = reduction(
  "amin",
  "The smallest element over neighbouring axes, which stay with extent 1; NaN if any is. Elements that tie share the gradient evenly.",
  { combine: "min(a, b)", f: Math.min, identity: highest, losesNaN: true },
  evenly,
);

const prodOp: Op<ReduceAttrs> = reduction(
  "prod",
  "The product over neighbouring axes, which stay with extent 1.",
  { combine: "a * b", f: (a, b) => a * b, whole: Math.imul, identity: () => 1 },
  othersProduct,
);

/**
 * The product of all other elements: of those before, times those behind. Quotients would lose derivatives of higher order
 * where an element is zero, and give NaN where the product is infinite.
 */
function othersProduct(x: Tensor, _y: Tensor, dims: readonly number[]): Tensor {
  const { outer, n, inner } = blocks(x.shape, dims);
  const list = reshape(x, [outer, n, inner]);
  return reshape(mul(productBefore(list, n), flip(productBefore(flip(list, 1), n), 1)), x.shape);
}

/** [outer, n, inner] -> the product of the elements before each along the middle axis, in steps of doubling reach. */
function productBefore(x: Tensor, n: number): Tensor {
  const later = (t: Tensor, by: number) => pad(narrow(t, 1, 0, n - by), [0, 0, by, 0], 1);
  let product = later(x, Math.min(1, n));
  for (let reach = 1; reach < n; reach *= 2) product = mul(product, later(product, reach));
  return product;
}

/** Applies a reduction of neighbouring axes over any axes. */
function over(
  op: Op<ReduceAttrs>,
  x: Tensor,
  dim: number | readonly number[] | null | undefined,
  keepdim: boolean,
): Tensor {
  const dims = normalizeDims(op.name, dim, x);
  if (runsOf(dims).length < 2) {
    const kept = apply(op, [x], { dims })[0];
    return keepdim ? kept : dropAxes(kept, dims);
  }
  const stay = x.shape.map((_, i) => i).filter((i) => !dims.includes(i));
  const moved = permute(x, [...stay, ...dims]);
  const last = dims.map((_, i) => stay.length + i);
  const reduced = reshape(
    apply(op, [moved], { dims: last })[0],
    stay.map((i) => x.shape[i]),
  );
  return keepdim ? insertAxes(reduced, dims) : reduced;
}

type Dims = number | readonly number[] | null;

/** The largest element over `dim` (one, several, or all when absent); NaN if any is. */
export const amax = (x: Tensor, dim?: Dims, keepdim = false) => over(amaxOp, x, dim, keepdim);

/** The smallest element over `dim` (one, several, or all when absent); NaN if any is. */
export const amin = (x: Tensor, dim?: Dims, keepdim = false) => over(aminOp, x, dim, keepdim);

/** The product over `dim` (one, several, or all when absent). */
export const prod = (x: Tensor, dim?: Dims, keepdim = false) => over(prodOp, x, dim, keepdim);
