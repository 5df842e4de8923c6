import { isFloat, wgslType } from "../../core/dtype.ts";
import { defineOp, opError } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";

/** In-place write of one tensor into another: gradient accumulators, caches, and f16 copies of f32 weights. */
const assign = defineOp<{ add: boolean }>({
  name: "assign",
  doc: "target = source, or target += source with add: updates its first input in place. Floats may differ in type and are added in f32; integers have one type, and sums wrap around.",
  mutates: [0],
  notDifferentiable: "it overwrites its input",
  infer(inputs) {
    const [target, source] = inputs;
    const floats = isFloat(target.dtype) && isFloat(source.dtype);
    const same = floats || (target.dtype === source.dtype && target.dtype !== "bool");
    if (!sameShape(target.shape, source.shape) || !same) {
      throw opError("assign", inputs, "expected two tensors of one shape, floats or integers of one type");
    }
    return [];
  },
  reference([target, source], { add }) {
    const wrap = { i32: (v: number) => v | 0, u32: (v: number) => v >>> 0 }[target.dtype as string];
    source.data.forEach((value, i) => {
      const sum = (add ? target.data[i] : 0) + value;
      target.data[i] = wrap ? wrap(sum) : sum;
    });
  },
  variants: [
    {
      name: "plain",
      file: "assign/assign.wgsl",
      plan({ inputs, attrs, profile }) {
        const size = numel(inputs[0].shape);
        const vec = size % 4 === 0 ? 4 : 1;
        const { dtype } = inputs[0];
        return {
          params: { size: size / vec },
          defines: { ADD: attrs.add, VEC: vec, SUM: isFloat(dtype) ? "f32" : wgslType(dtype) },
          grid: foldGrid(Math.ceil(size / vec / 256), profile),
        };
      },
    },
  ],
  samples: () => [
    { name: "copy", inputs: [{ shape: [7, 5] }, { shape: [7, 5] }], attrs: { add: false } },
    {
      name: "add integers",
      inputs: [
        { shape: [5], dtype: "u32", values: [4294967295, 7, 0, 1, 2] },
        { shape: [5], dtype: "u32", range: [1, 9] },
      ],
      attrs: { add: true },
    },
    { name: "add", inputs: [{ shape: [1027], dtype: "f32" }, { shape: [1027] }], attrs: { add: true } },
  ],
});

/** Overwrites `target` with `source`. */
export function assignInto(target: Tensor, source: Tensor): void {
  apply(assign, [target, source], { add: false });
}

/** Adds `source` to `target` in place. */
export function addInto(target: Tensor, source: Tensor): void {
  apply(assign, [target, source], { add: true });
}
