import { isFloat } from "../../core/dtype.ts";
import { type Call, defineOp, type Op, opError, type TensorMeta } from "../../core/op.ts";
import { normalizeDim, numel, rankOf, sameShape } from "../../core/shape.ts";
import { apply, type Tensor, zeros } from "../../core/tensor.ts";
import { embedding, isIndex } from "../embedding/op.ts";
import { foldGrid } from "../include/grid.ts";
import { expand, narrow, reshape, transpose } from "../views/index.ts";

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
  doc: "y[..., j] = x[..., index[..., j]] on the last axis; an index outside it is a mistake: it gives NaN (zero in integer tensors), and its row of the gradient is NaN.",
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
    const back = () => dy && apply(scatterAddOp, [zeros(x.shape, dy.dtype, dy.device), index, dy], {})[0];
    return [needs[0] ? back() : null, null];
  },
  variants: [
    {
      name: "plain",
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
    },
  ],
  samples: () => [
    { name: "odd", inputs: [{ shape: [4, 9] }, { shape: [4, 5], dtype: "i32", range: [0, 8] }], attrs: {} },
    {
      name: "outside",
      inputs: [{ shape: [3, 4] }, { shape: [3, 2], dtype: "i32", values: [0, 4, 3, 1, -1, 2] }],
      attrs: {},
      gradcheck: false,
    },
    {
      name: "u32",
      inputs: [{ shape: [2, 70, 3] }, { shape: [2, 70, 1], dtype: "u32", range: [0, 2] }],
      attrs: {},
    },
    {
      name: "integers",
      inputs: [
        { shape: [3, 5], dtype: "i32", range: [-9, 9] },
        { shape: [3, 2], dtype: "i32", range: [0, 4] },
      ],
      attrs: {},
    },
  ],
  secondOrder: true,
});

/** Up to this many picks a row, every cell may as well look through them all. */
const fewPicks = 32;

export const scatterAddOp: Op<None> = defineOp<None>({
  name: "scatter_add",
  doc: "y = x, then y[..., index[..., j]] += src[..., j] on the last axis, in the order of j; an index outside is a mistake: its row of y is NaN.",
  infer(inputs) {
    const [x, index, src] = inputs;
    const fits = isIndex(index) && sameRows(x, index) && sameShape(index.shape, src?.shape ?? []);
    if (!fits || !isFloat(x.dtype) || src.dtype !== x.dtype) {
      throw opError(
        "scatter_add",
        inputs,
        "expected float input and source, and indices shaped as the source that agree with the input on every axis but the last",
      );
    }
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x, index, src], _attrs, [y]) {
    const width = x.shape[x.shape.length - 1];
    const picks = index.shape[index.shape.length - 1];
    y.data.set(x.data);
    index.data.forEach((column, i) => {
      const at = Math.floor(i / picks) * width;
      if (column >= 0 && column < width) y.data[at + column] += src.data[i];
      else y.data.fill(Number.NaN, at, at + width);
    });
  },
  gradient: ({ inputs: [, index], needs }, [dy]) => [
    dy,
    null,
    dy && needs[2] ? apply(gatherOp, [dy, index], {})[0] : null,
  ],
  variants: [
    {
      name: "cells",
      file: "gather/scatter_cells.wgsl",
      when: (call) => extents(call).picks <= fewPicks,
      plan(call) {
        const { width, picks, rows } = extents(call);
        const size = rows * width;
        return { params: { size, width, picks }, grid: foldGrid(Math.ceil(size / 64), call.profile) };
      },
    },
    {
      name: "rows",
      file: "gather/scatter_rows.wgsl",
      plan(call) {
        const { width, picks, rows } = extents(call);
        return { params: { rows, width, picks }, grid: foldGrid(Math.ceil(rows / 64), call.profile) };
      },
    },
  ],
  samples: () => {
    const of = (name: string, rows: number, width: number, picks: number) => ({
      name,
      inputs: [
        { shape: [rows, width] },
        { shape: [rows, picks], dtype: "i32" as const, range: [0, width - 1] as const },
        { shape: [rows, picks] },
      ],
      attrs: {},
    });
    // Enough picks for each of the variants.
    const outside = (name: "few" | "many") => ({
      ...of(`outside, ${name}`, 2, 5, name === "few" ? 3 : 40),
      inputs: [
        { shape: [2, 5] },
        {
          shape: [2, name === "few" ? 3 : 40],
          dtype: "i32" as const,
          values: Array.from({ length: name === "few" ? 6 : 80 }, (_, i) => (i === 1 ? 5 : i % 5)),
        },
        { shape: [2, name === "few" ? 3 : 40] },
      ],
      gradcheck: false,
    });
    return [
      of("few", 5, 6, 9),
      of("many", 3, 4, 50),
      of("no picks", 2, 3, 0),
      outside("few"),
      outside("many"),
    ];
  },
  secondOrder: true,
});

/** `x` cut down to the extents of `index` on every axis but `axis`, as torch.gather reads it. */
function cutTo(x: Tensor, index: Tensor, axis: number): Tensor {
  let out = x;
  index.shape.forEach((extent, i) => {
    if (i !== axis && extent < out.shape[i]) out = narrow(out, i, 0, extent);
  });
  return out;
}

/** torch.gather: y[i][j] = x[i][index[i][j]] along `dim`; index has the rank of x. */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  rankOf("gather", index);
  const axis = normalizeDim("gather", dim, x);
  const last = (t: Tensor) => (axis === t.rank - 1 ? t : transpose(t, axis, -1));
  return last(apply(gatherOp, [last(cutTo(x, index, axis)), last(index)], {})[0]);
}

/** torch.scatter_add: x with src[i][j] added at [index[i][j]] along `dim`, in order; index has the shape of src. */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  for (const t of [index, src]) rankOf("scatter_add", t);
  const axis = normalizeDim("scatter_add", dim, x);
  const last = (t: Tensor) => (axis === t.rank - 1 ? t : transpose(t, axis, -1));
  return last(apply(scatterAddOp, [last(x), last(index), last(src)], {})[0]);
}

/** torch.index_select: the slices `index` (rank 1) of x along `dim`. */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  const axis = normalizeDim("index_select", dim, x);
  const front = transpose(x, 0, axis);
  const rows = reshape(front, [front.shape[0], numel(front.shape.slice(1))]);
  const picked = isFloat(x.dtype)
    ? embedding(index, rows)
    : gather(rows, 0, expand(reshape(index, [index.size, 1]), [index.size, rows.shape[1]]));
  return transpose(reshape(picked, [index.size, ...front.shape.slice(1)]), 0, axis);
}
