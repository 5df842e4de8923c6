import { defineOp, type Op, opError } from "../../core/op.ts";
import { checkWhole, numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";

interface TriangleAttrs {
  /** The diagonal (0 is the main one, positive ones are above it), which is kept with… */
  readonly diagonal: number;
  /** … what is above it rather than what is below it. */
  readonly upper: boolean;
}

const triangleOp: Op<TriangleAttrs> = defineOp<TriangleAttrs>({
  name: "triangle",
  doc: "Matrices (the last two axes) in which a diagonal and one side of it are kept and the rest is 0.",
  infer(inputs, { diagonal }) {
    const x = inputs[0];
    checkWhole("triangle", "the diagonal", diagonal);
    if (x.shape.length < 2) throw opError("triangle", inputs, "expected at least two axes");
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x], { diagonal, upper }, [out]) {
    const [rows, columns] = x!.shape.slice(-2) as [number, number];
    for (let i = 0; i < x!.data.length; i++) {
      const above = (i % columns) - (Math.floor(i / columns) % rows) - diagonal;
      out!.data[i] = (upper ? above >= 0 : above <= 0) ? x!.data[i] : 0;
    }
  },
  gradient: ({ attrs }, [dy]) => [apply(triangleOp, [dy!], attrs)[0]],
  file: "pad/triangle.wgsl",
  plan({ inputs, attrs, profile }) {
    const { shape } = inputs[0];
    const size = numel(shape);
    const [rows, columns] = shape.slice(-2) as [number, number];
    const params = { size, rows, columns, diagonal: attrs.diagonal, sign: attrs.upper ? 1 : -1 };
    return { params, grid: foldGrid(Math.ceil(size / 64), profile) };
  },
  secondOrder: true,
  samples: () => [
    { name: "lower", inputs: [{ shape: [6, 6] }], attrs: { diagonal: 0, upper: false } },
    { name: "upper", inputs: [{ shape: [2, 4, 7] }], attrs: { diagonal: 1, upper: true } },
    {
      name: "lower tall",
      inputs: [{ shape: [9, 3], dtype: "i32", range: [1, 9] }],
      attrs: { diagonal: -2, upper: false },
    },
  ],
});

/** The lower triangle of the last two axes: the elements on `diagonal` and below it. */
export function tril(x: Tensor, diagonal = 0): Tensor {
  return apply(triangleOp, [x], { diagonal, upper: false })[0];
}

/** The upper triangle of the last two axes: the elements on `diagonal` and above it. */
export function triu(x: Tensor, diagonal = 0): Tensor {
  return apply(triangleOp, [x], { diagonal, upper: true })[0];
}
