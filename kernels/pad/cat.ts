import { KilnError } from "../../core/errors.ts";
import { defineOp, type Op, opError, type Pass } from "../../core/op.ts";
import { checkList, normalizeDim, numel, rankOf, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { castTo } from "../elementwise/op.ts";
import { promote } from "../elementwise/program.ts";
import { foldGrid } from "../include/grid.ts";
import { narrow, unsqueeze } from "../views/index.ts";

/** Takes any number of inputs: each is copied into the result by a pass of its own. */
const catOp: Op<{ dim: number }> = defineOp<{ dim: number }>({
  name: "cat",
  doc: "Tensors one after the other along an axis; all other extents and the dtypes must be equal.",
  infer(inputs, { dim }) {
    const first = inputs[0];
    const fits = (shape: readonly number[]) =>
      shape.length === first!.shape.length &&
      shape.every((extent, axis) => axis === dim || extent === first!.shape[axis]);
    if (
      !first ||
      dim >= first.shape.length ||
      !inputs.every((t) => fits(t.shape) && t.dtype === first.dtype)
    ) {
      throw opError("cat", inputs, `expected tensors that differ along axis ${dim} only`);
    }
    const total = inputs.reduce((sum, t) => sum + t.shape[dim], 0);
    return [
      { shape: first.shape.map((extent, axis) => (axis === dim ? total : extent)), dtype: first.dtype },
    ];
  },
  reference(inputs, { dim }, [out]) {
    const row = numel(out!.shape.slice(dim));
    let start = 0;
    for (const t of inputs) {
      const width = numel(t.shape.slice(dim));
      for (let i = 0; i < t.data.length; i++)
        out!.data[Math.floor(i / width) * row + start + (i % width)] = t.data[i];
      start += width;
    }
  },
  gradient({ inputs, attrs: { dim } }, [dy]) {
    let start = 0;
    return inputs.map((t) => {
      const piece = narrow(dy!, dim, start, t.shape[dim]);
      start += t.shape[dim];
      return piece;
    });
  },
  file: "pad/cat.wgsl",
  plan({ inputs, outputs, attrs: { dim }, profile }) {
    const widths = inputs.map((t) => numel(t.shape.slice(dim)));
    const per = widths.every((w) => w % 4 === 0) ? 4 : 1;
    const row = numel(outputs[0].shape.slice(dim)) / per;
    let start = 0;
    const passes = inputs.map((t, i): Pass => {
      const size = numel(t.shape) / per;
      const width = widths[i] / per;
      const params = { size, width, row, start };
      start += width;
      const defines = { TYPE: per === 4 ? "vec4<U0>" : "U0" };
      return { defines, params, grid: foldGrid(Math.ceil(size / 64), profile), bind: [`in${i}`, "out0"] };
    });
    return { passes };
  },
  secondOrder: true,
  samples: () => [
    {
      name: "middle",
      inputs: [{ shape: [2, 3, 5] }, { shape: [2, 1, 5] }, { shape: [2, 4, 5] }],
      attrs: { dim: 1 },
    },
    {
      name: "fours",
      inputs: [{ shape: [3, 8] }, { shape: [3, 4], layout: "transposed" }],
      attrs: { dim: 1 },
    },
    {
      name: "ten, one empty",
      inputs: [3, 0, 1, 2, 5, 1, 1, 2, 3, 4].map((n) => ({ shape: [n] })),
      attrs: { dim: 0 },
    },
  ],
});

/** Tensors one after the other along `dim`; dtypes are promoted. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  checkList("cat", "tensors", tensors);
  if (tensors.length === 0) throw new KilnError("cat: expected one tensor or more, got none");
  for (const t of tensors) rankOf("cat", t);
  const axis = normalizeDim("cat", dim, tensors[0]);
  const dtype = promote(
    "cat",
    tensors.map((t) => t.dtype),
  );
  return apply(
    catOp,
    tensors.map((t) => castTo(t, dtype)),
    { dim: axis },
  )[0];
}

/** Tensors of one shape side by side along a new axis `dim`. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  checkList("stack", "tensors", tensors);
  if (tensors.length === 0) throw new KilnError("stack: expected one tensor or more, got none");
  for (const t of tensors) rankOf("stack", t);
  if (tensors.some((t) => !sameShape(t.shape, tensors[0].shape)))
    throw opError("stack", tensors, "expected tensors of one shape");
  const axis = normalizeDim("stack", dim, tensors[0], 1);
  return cat(
    tensors.map((t) => unsqueeze(t, axis)),
    axis,
  );
}
