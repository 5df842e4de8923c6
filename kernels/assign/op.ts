import { isFloat } from "../../core/dtype.ts";
import { defineOp, opError } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";

/** In-place write of one tensor into another: gradient accumulators, caches, and f16 copies of f32 weights. */
const assign = defineOp<{ add: boolean }>({
  name: "assign",
  doc: "target = source, or target += source with add: updates its first input in place, in its own float type; adds in f32.",
  mutates: [0],
  notDifferentiable: "it overwrites its input",
  infer(inputs) {
    const [target, source] = inputs;
    if (!sameShape(target.shape, source.shape) || !isFloat(target.dtype) || !isFloat(source.dtype)) {
      throw opError("assign", inputs, "expected two float tensors of one shape");
    }
    return [];
  },
  reference([target, source], { add }) {
    source.data.forEach((value, i) => {
      target.data[i] = (add ? target.data[i] : 0) + value;
    });
  },
  variants: [
    {
      name: "plain",
      file: "assign/assign.wgsl",
      plan({ inputs, attrs, profile }) {
        const size = numel(inputs[0].shape);
        const vec = size % 4 === 0 ? 4 : 1;
        return {
          params: { size: size / vec },
          defines: { ADD: attrs.add, VEC: vec },
          grid: foldGrid(Math.ceil(size / vec / 256), profile),
        };
      },
    },
  ],
  samples: () => [
    { name: "copy", inputs: [{ shape: [7, 5] }, { shape: [7, 5] }], attrs: { add: false } },
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
