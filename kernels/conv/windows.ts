import { isFloat } from "../../core/dtype.ts";
import { defineOp, type Op, opError } from "../../core/op.ts";
import { checkWhole, normalizeDim, numel, type Shape } from "../../core/shape.ts";
import { apply, recordView, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { narrow } from "../views/index.ts";

// Windows and their sum are each other's derivative, hence one file. Convolution and pooling are made of both.

export interface OverlapAddAttrs {
  /** The axis whose windows are put back. */
  readonly dim: number;
  /** Extent of that axis in the result. */
  readonly extent: number;
  /** Distance from one window to the next. */
  readonly step: number;
  /** Distance from one element of a window to the next. */
  readonly dilation: number;
}

const overlapAddOp: Op<OverlapAddAttrs> = defineOp<OverlapAddAttrs>({
  name: "overlap_add",
  doc: "y[.., p, ..] = the sum of x[.., w, .., k] over all windows w on axis dim and taps k on the last axis with w * step + k * dilation = p, in the order of k, accumulated in f32.",
  infer(inputs, { dim, extent, step, dilation }) {
    const x = inputs[0];
    checkWhole("overlap_add", "the extent", extent, 0);
    checkWhole("overlap_add", "the step", step, 1);
    checkWhole("overlap_add", "the dilation", dilation, 1);
    const [count, taps] = [x.shape[dim], x.shape.at(-1)!];
    const last = (count - 1) * step + (taps - 1) * dilation;
    if (!isFloat(x.dtype) || dim >= x.shape.length - 1 || last >= extent)
      throw opError("overlap_add", inputs, `expected float windows on axis ${dim} that end before ${extent}`);
    return [{ shape: x.shape.slice(0, -1).map((n, axis) => (axis === dim ? extent : n)), dtype: x.dtype }];
  },
  reference([x], { dim, extent, step, dilation }, [y]) {
    const [count, taps] = [x.shape[dim], x.shape.at(-1)!];
    const inner = numel(x.shape.slice(dim + 1, -1));
    x.data.forEach((value, i) => {
      const tap = i % taps;
      const column = Math.floor(i / taps) % inner;
      const window = Math.floor(i / (taps * inner)) % count;
      const outer = Math.floor(i / (taps * inner * count));
      y.data[(outer * extent + window * step + tap * dilation) * inner + column] += value;
    });
  },
  gradient({ inputs: [x], attrs: { dim, step, dilation } }, [dy]) {
    if (!dy) return [null];
    return [narrow(windows(dy, dim, x.shape.at(-1)!, step, dilation), dim, 0, x.shape[dim])];
  },
  file: "conv/overlap_add.wgsl",
  strided: true,
  plan({ inputs: [x], outputs: [y], attrs: { dim, step, dilation }, profile }) {
    const rank = y.shape.length;
    const size = numel(y.shape);
    return {
      defines: { QUADS: `${Math.ceil(rank / 4)}` },
      params: {
        size,
        rank,
        folded: rank - 1 - dim,
        windows: x.shape[dim],
        taps: x.shape[rank],
        step,
        dilation,
        start: x.offset,
        tap_stride: x.strides[rank],
        shape: y.shape.toReversed(),
        strides: x.strides.slice(0, rank).toReversed(),
      },
      grid: foldGrid(Math.ceil(size / 64), profile),
    };
  },
  samples: () => {
    const of = (name: string, shape: Shape, attrs: OverlapAddAttrs) => ({ name, inputs: [{ shape }], attrs });
    return [
      of("side by side", [2, 4, 3], { dim: 1, extent: 12, step: 3, dilation: 1 }),
      of("overlapping", [2, 5, 3, 3], { dim: 1, extent: 7, step: 1, dilation: 1 }),
      of("dilated, with a rest", [2, 4, 3], { dim: 1, extent: 13, step: 2, dilation: 3 }),
      of("gaps", [3, 70, 2], { dim: 1, extent: 211, step: 3, dilation: 1 }),
      {
        ...of("a view", [4, 2, 1, 3, 2, 3], { dim: 3, extent: 8, step: 2, dilation: 1 }),
        inputs: [{ shape: [4, 2, 1, 3, 2, 3], layout: "transposed" as const }],
      },
    ];
  },
  secondOrder: true,
});

/** The sum of windows where they overlap: the transpose of `windows` as a linear map, see `overlapAddOp`. */
export function overlapAdd(x: Tensor, dim: number, extent: number, step = 1, dilation = 1): Tensor {
  return apply(overlapAddOp, [x], { dim: normalizeDim("overlapAdd", dim, x), extent, step, dilation })[0];
}

/**
 * Windows of `size` elements of axis `dim`, `step` apart, their elements `dilation` apart: the axis counts windows, and a
 * new last one their elements. A view: nothing is copied. With dilation 1 it is torch.Tensor.unfold.
 */
export function windows(x: Tensor, dim: number, size: number, step = 1, dilation = 1): Tensor {
  const axis = normalizeDim("windows", dim, x);
  checkWhole("windows", "the size", size, 1);
  checkWhole("windows", "the step", step, 1);
  checkWhole("windows", "the dilation", dilation, 1);
  const extent = x.shape[axis] ?? 0;
  const span = (size - 1) * dilation + 1;
  if (span > extent)
    throw opError("windows", [x], `axis ${axis} has ${extent} elements; a window spans ${span}`);
  const count = Math.floor((extent - span) / step) + 1;
  const stride = x.strides[axis];
  const view = x.asStrided(
    [...x.shape.with(axis, count), size],
    [...x.strides.with(axis, stride * step), stride * dilation],
    x.offset,
  );
  return recordView(view, x, "windows", (dy) => overlapAdd(dy, axis, extent, step, dilation));
}
