import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import {
  type Call,
  defineOp,
  type GradientContext,
  type Op,
  opError,
  type Sample,
  type SampleInput,
  type TensorMeta,
} from "../../core/op.ts";
import { numel, type Shape, sameShape } from "../../core/shape.ts";
import { gradEnabled, noGrad } from "../../core/tape.ts";
import { apply, full, type Tensor } from "../../core/tensor.ts";
import { arange } from "../creation/index.ts";
import { cast, div, eq, mul, where } from "../elementwise/index.ts";
import { isIndex } from "../embedding/op.ts";
import { foldGrid } from "../include/grid.ts";
import { computeType, wrapping } from "../reduce/lower.ts";
import { expand } from "../views/index.ts";

// Gathering and scattering on the last axis, which are each other's derivatives.

type None = Record<string, never>;

/** Whether two tensors agree on every axis but the last. */
function sameRows(a: TensorMeta, b: TensorMeta): boolean {
  return a.shape.length > 0 && sameShape(a.shape.slice(0, -1), b.shape.slice(0, -1)) && b.shape.length > 0;
}

function extents({ inputs: [x, index] }: Call<None>) {
  const width = x.shape[x.shape.length - 1];
  const picks = index.shape[index.shape.length - 1];
  return { width, picks, rows: numel(index.shape.slice(0, -1)) };
}

export const gatherOp: Op<None> = defineOp<None>({
  name: "gather",
  doc: "y[..., j] = x[..., index[..., j]] on the last axis; an index out of range is a mistake: it gives NaN (0 in integer tensors), and its row of the gradient is NaN.",
  infer(inputs) {
    const [x, index] = inputs;
    if (!isIndex(index) || !sameRows(x, index)) {
      throw opError(
        "gather",
        inputs,
        "expected i32 or u32 indices that agree with the input on every axis but the last",
      );
    }
    return [{ shape: index.shape, dtype: x.dtype }];
  },
  reference([x, index], _attrs, [y]) {
    const width = x.shape[x.shape.length - 1];
    const picks = index.shape[index.shape.length - 1];
    index.data.forEach((column, i) => {
      const inside = column >= 0 && column < width;
      if (inside) y.data[i] = x.data[Math.floor(i / picks) * width + column];
      else if (isFloat(y.dtype)) y.data[i] = Number.NaN;
    });
  },
  gradient({ inputs: [x, index], needs }, [dy]) {
    const back = () => dy && scattered(full(x.shape, 0, dy.dtype, dy.device), index, dy, "add");
    return [needs[0] ? back() : null, null];
  },
  file: "gather/gather.wgsl",
  plan(call) {
    const { width, picks, rows } = extents(call);
    const size = rows * picks;
    return {
      defines: { FLOAT: isFloat(call.inputs[0].dtype) },
      params: { size, width, picks },
      grid: foldGrid(Math.ceil(size / 64), call.profile),
    };
  },
  samples: () => {
    const of = (name: string, x: SampleInput, index: SampleInput) => ({
      name,
      inputs: [x, index],
      attrs: {},
    });
    const i32 = (shape: number[], range: [number, number]): SampleInput => ({ shape, dtype: "i32", range });
    const outside: SampleInput = { shape: [3, 2], dtype: "i32", values: [0, 4, 3, 1, -1, 2] };
    return [
      of("odd", { shape: [4, 9] }, i32([4, 5], [0, 8])),
      { ...of("outside", { shape: [3, 4] }, outside), gradcheck: false },
      of("u32", { shape: [2, 70, 3] }, { shape: [2, 70, 1], dtype: "u32", range: [0, 2] }),
      of("integers", i32([3, 5], [-9, 9]), i32([3, 2], [0, 4])),
    ];
  },
  secondOrder: true,
});

/** Up to this many picks in a row, each cell can look through all of them. */
const fewPicks = 32;

/** How a value is combined with what its place holds: in WGSL over a and b, and on the host, for integers too. */
interface Combination {
  readonly doc: string;
  readonly float: string;
  readonly integer: string;
  readonly f: (a: number, b: number) => number;
  readonly whole?: (a: number, b: number) => number;
}

const combinations = {
  replace: { doc: "the last one written stays", float: "b", integer: "b", f: (_a, b) => b },
  add: { doc: "values are added", float: "a + b", integer: "a + b", f: (a, b) => a + b },
  prod: {
    doc: "values are multiplied",
    float: "a * b",
    integer: "a * b",
    f: (a, b) => a * b,
    whole: Math.imul,
  },
  amax: { doc: "the largest stays", float: "maximum(a, b)", integer: "max(a, b)", f: Math.max },
  amin: { doc: "the smallest stays", float: "minimum(a, b)", integer: "min(a, b)", f: Math.min },
} satisfies Record<string, Combination>;

export type Reduction = keyof typeof combinations;

const gathered = (x: Tensor, index: Tensor) => apply(gatherOp, [x, index], {})[0];

/** Scatters on the last axis. */
export const scattered = (x: Tensor, index: Tensor, src: Tensor, by: Reduction): Tensor =>
  apply(scatterOps[by], [x, index, src], {})[0];

type Rule = (context: GradientContext<None>, dy: Tensor) => [Tensor, Tensor];

/** Cotangents of x and src. */
const gradients: Record<Reduction, Rule> = {
  add: ({ inputs: [, index] }, dy) => [dy, gathered(dy, index)],
  replace({ inputs: [x, index, src] }, dy) {
    const stays = noGrad(() => {
      const order = expand(arange(0, src.shape.at(-1)!, 1, "i32", x.device), src.shape);
      const writer = scattered(full(x.shape, -1, "i32", x.device), index, order, "replace");
      return eq(gathered(writer, index), order);
    });
    const none = full(src.shape, 0, dy.dtype, x.device);
    return [scattered(dy, index, none, "replace"), where(stays, gathered(dy, index), 0)];
  },
  prod({ inputs: [x, index, src] }, dy) {
    if (gradEnabled())
      throw new KilnError("scatter_prod has no second derivative; take derivatives without createGraph");
    // The product of all others is found without those that are 0, so that it is right where one or more are.
    const [zeroX, zeroSrc] = [eq(x, 0), eq(src, 0)];
    const zeros = scattered(cast(zeroX, dy.dtype), index, cast(zeroSrc, dy.dtype), "add");
    const [factors, more] = [where(zeroX, 1, x), where(zeroSrc, 1, src)];
    const product = scattered(factors, index, more, "prod");
    const others = (zero: Tensor, factor: Tensor, count: Tensor, all: Tensor) =>
      where(eq(count, cast(zero, count.dtype)), div(all, factor), 0);
    return [
      mul(dy, others(zeroX, factors, zeros, product)),
      mul(gathered(dy, index), others(zeroSrc, more, gathered(zeros, index), gathered(product, index))),
    ];
  },
  amax: evenly,
  amin: evenly,
};

/** Values that tie for the extreme share its cotangent evenly, as in PyTorch. */
function evenly(
  { inputs: [x, index, src], outputs: [y] }: GradientContext<None>,
  dy: Tensor,
): [Tensor, Tensor] {
  const [own, hit] = noGrad(() => [cast(eq(x, y), dy.dtype), cast(eq(src, gathered(y, index)), dy.dtype)]);
  const share = div(
    dy,
    noGrad(() => scattered(own, index, hit, "add")),
  );
  return [mul(own, share), mul(hit, gathered(share, index))];
}

function scatterOp(by: Reduction): Op<None> {
  const name = `scatter_${by}`;
  const { doc, f, whole, float, integer }: Combination = combinations[by];
  const plan = (call: Call<None>, cells: boolean) => {
    const { width, picks, rows } = extents(call);
    const size = cells ? rows * width : rows;
    const S = computeType(call.inputs[0].dtype);
    const FLOAT = S === "f32";
    return {
      defines: { CELLS: cells, FLOAT, S, V: S, VB: "bool", VU: "u32", COMBINE: FLOAT ? float : integer },
      params: { size, width, picks },
      grid: foldGrid(Math.ceil(size / 64), call.profile),
    };
  };
  return defineOp<None>({
    name,
    doc: `y = x, then src[..., j] goes to y[..., index[..., j]] on the last axis, in the order of j: ${doc}. An index out of range is a mistake: it makes its row of y NaN; in integer tensors it is skipped.`,
    infer(inputs) {
      const [x, index, src] = inputs;
      const fits = isIndex(index) && sameRows(x, index) && sameShape(index.shape, src?.shape ?? []);
      if (!fits || src.dtype !== x.dtype || (x.dtype === "bool" && by !== "replace"))
        throw opError(
          name,
          inputs,
          "expected input and source of one dtype (bool only to replace), and i32 or u32 indices shaped as the source that agree with the input on every axis but the last",
        );
      return [{ shape: x.shape, dtype: x.dtype }];
    },
    reference([x, index, src], _attrs, [y]) {
      const width = x.shape[x.shape.length - 1];
      const picks = index.shape[index.shape.length - 1];
      const floats = isFloat(y.dtype);
      const combine = floats ? f : wrapping(y.dtype, whole ?? f);
      y.data.set(x.data);
      index.data.forEach((column, i) => {
        const at = Math.floor(i / picks) * width;
        if (column >= 0 && column < width) y.data[at + column] = combine(y.data[at + column], src.data[i]);
      });
      if (floats)
        index.data.forEach((column, i) => {
          const at = Math.floor(i / picks) * width;
          if (column < 0 || column >= width) y.data.fill(Number.NaN, at, at + width);
        });
    },
    gradient(context, [dy]) {
      const [dx, dsrc] = gradients[by](context, dy!);
      return [dx, null, dsrc];
    },
    variants: [
      {
        name: "cells",
        file: "gather/scatter.wgsl",
        when: (call) => extents(call).picks <= fewPicks,
        plan: (call) => plan(call, true),
      },
      { name: "rows", file: "gather/scatter.wgsl", plan: (call) => plan(call, false) },
    ],
    secondOrder: by !== "prod",
    samples: () => scatterSamples(by),
  });
}

const scatterOps: Record<Reduction, Op<None>> = {
  replace: scatterOp("replace"),
  add: scatterOp("add"),
  prod: scatterOp("prod"),
  amax: scatterOp("amax"),
  amin: scatterOp("amin"),
};

/** Few picks, for one thread per cell, and many, for one per row. */
function scatterSamples(by: Reduction): Sample<None>[] {
  const of = (name: string, [rows, width, picks]: Shape, more: Partial<SampleInput> = {}) => ({
    name,
    inputs: [
      { shape: [rows, width], ...more },
      { shape: [rows, picks], dtype: "i32" as const, range: [0, width - 1] as const },
      { shape: [rows, picks], ...more },
    ],
    attrs: {},
  });
  const outside = (name: string, picks: number) => {
    const sample = of(name, [2, 5, picks]);
    const values = Array.from({ length: 2 * picks }, (_, i) => (i === 1 ? 5 : i % 5));
    return {
      ...sample,
      inputs: sample.inputs.with(1, { shape: [2, picks], dtype: "i32", values }),
      gradcheck: false,
    };
  };
  const integers = of("integers", [2, 5, 9], { dtype: "i32", range: [-9, 9] });
  if (by !== "add") return [of("few", [3, 4, 6]), outside("many, outside", 40), integers];
  return [
    of("few", [5, 6, 9]),
    of("many", [3, 4, 50]),
    of("no picks", [2, 3, 0]),
    outside("outside, few", 3),
    outside("outside, many", 40),
    integers,
  ];
}
