import { fitsDType, isFloat, wgslType } from "../../core/dtype.ts";
import { defineOp, type Op, opError } from "../../core/op.ts";
import {
  checkShape,
  checkWhole,
  contiguousStrides,
  numel,
  rankOf,
  type Shape,
  sameShape,
  show,
} from "../../core/shape.ts";
import { apply, recordView, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";

interface PlaceAttrs {
  /** Of the result. */
  readonly shape: Shape;
  /** Per axis, where the input's first element goes. */
  readonly starts: readonly number[];
  /** Per axis, the distance of its elements; may be negative. */
  readonly steps: readonly number[];
  /** What fills the rest. */
  readonly value: number;
}

/** The derivative of slicing; with steps of 1 it is padding. */
const placeOp: Op<PlaceAttrs> = defineOp<PlaceAttrs>({
  name: "place",
  doc: "A tensor filled with one value into which the input is copied: element i of an axis goes to start + i * step.",
  infer(inputs, { shape, starts, steps, value }) {
    const x = inputs[0];
    if (!fitsDType(value, x.dtype))
      throw opError("place", inputs, `the value ${value} is outside of ${x.dtype}`);
    const rank = x.shape.length;
    checkShape("place", shape);
    const fits = [shape, starts, steps].every((list) => list.length === rank);
    for (const step of [...starts, ...steps]) checkWhole("place", "a start or step", step);
    if (steps.includes(0)) throw opError("place", inputs, "a step of 0 leads nowhere");
    const inside =
      fits &&
      x.shape.every((extent, i) => {
        const last = starts[i] + (extent - 1) * steps[i];
        return extent === 0 || (Math.min(starts[i], last) >= 0 && Math.max(starts[i], last) < shape[i]);
      });
    if (!inside)
      throw opError("place", inputs, `does not fit into ${show(shape)} from [${starts}] by [${steps}]`);
    return [{ shape, dtype: x.dtype }];
  },
  reference([x], { shape, starts, steps, value }, [out]) {
    out!.data.fill(x!.dtype === "bool" ? Number(value !== 0) : value);
    const from = contiguousStrides(x!.shape);
    const to = contiguousStrides(shape);
    for (let i = 0; i < x!.data.length; i++) {
      let at = 0;
      for (let d = 0; d < shape.length; d++) {
        const index = Math.floor(i / from[d]) % x!.shape[d];
        at += (starts[d] + index * steps[d]) * to[d];
      }
      out!.data[at] = x!.data[i];
    }
  },
  gradient: ({ inputs, attrs }, [dy]) => [takeBack(dy!, inputs[0].shape, attrs)],
  file: "pad/place.wgsl",
  plan({ inputs, outputs, attrs, profile }) {
    const size = numel(outputs[0].shape);
    const innermostFirst = (list: readonly number[]) => [...list].reverse();
    const { dtype } = inputs[0];
    return {
      defines: {
        S: isFloat(dtype) ? "f32" : wgslType(dtype),
        QUADS: `${Math.max(1, Math.ceil(attrs.shape.length / 4))}`,
      },
      params: {
        size,
        rank: attrs.shape.length,
        value: dtype === "bool" ? Number(attrs.value !== 0) : attrs.value,
        shape: innermostFirst(attrs.shape),
        extents: innermostFirst(inputs[0].shape),
        starts: innermostFirst(attrs.starts),
        steps: innermostFirst(attrs.steps),
      },
      grid: foldGrid(Math.ceil(size / 64), profile),
    };
  },
  secondOrder: true,
  samples: () => [
    {
      name: "pad",
      inputs: [{ shape: [2, 3] }],
      attrs: { shape: [5, 6], starts: [3, 1], steps: [1, 1], value: 0.5 },
    },
    {
      name: "steps",
      inputs: [{ shape: [2, 3] }],
      attrs: { shape: [4, 9], starts: [1, 8], steps: [2, -4], value: 0 },
    },
    { name: "scalar", inputs: [{ shape: [] }], attrs: { shape: [], starts: [], steps: [], value: 0 } },
    {
      name: "empty",
      inputs: [{ shape: [0, 3] }],
      attrs: { shape: [2, 3], starts: [0, 0], steps: [1, 1], value: -1 },
    },
    {
      name: "i32",
      inputs: [{ shape: [3], dtype: "i32", range: [-9, 9] }],
      attrs: { shape: [70], starts: [60], steps: [-20], value: 16777217 },
    },
  ],
});

/** The strided view that `place` wrote. */
function takeBack(dy: Tensor, shape: Shape, attrs: PlaceAttrs): Tensor {
  const strides = dy.strides.map((s, i) => s * attrs.steps[i]);
  const empty = numel(shape) === 0;
  const offset = empty ? dy.offset : dy.strides.reduce((at, s, i) => at + s * attrs.starts[i], dy.offset);
  return recordView(dy.asStrided(shape, strides, offset), dy, "slice", (g) =>
    place(g, attrs.shape, attrs.starts, attrs.steps, 0),
  );
}

/** x copied into a tensor of `shape` filled with `value`: element i of an axis goes to start + i * step. */
export function place(
  x: Tensor,
  shape: Shape,
  starts: readonly number[],
  steps: readonly number[],
  value: number,
): Tensor {
  rankOf("place", x);
  if (sameShape(x.shape, shape) && steps.every((s) => s === 1)) return x;
  return apply(placeOp, [x], { shape, starts, steps, value })[0];
}
