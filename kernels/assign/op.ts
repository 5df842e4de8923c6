import { defineOp, opError } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../grid.ts";

/** In-place write of one tensor into another: gradient accumulators and caches. */
const assign = defineOp<{ add: boolean }>({
  name: "assign",
  doc: "target = source, or target += source with add: updates its first input in place.",
  mutates: [0],
  f16: false,
  notDifferentiable: "it overwrites its input",
  infer(inputs) {
    const [target, source] = inputs as [(typeof inputs)[0], (typeof inputs)[0]];
    if (!sameShape(target.shape, source.shape) || target.dtype !== "f32" || source.dtype !== "f32") {
      throw opError("assign", inputs, "expected two f32 tensors of one shape");
    }
    return [];
  },
  reference([target, source], { add }) {
    source!.data.forEach((value, i) => {
      target!.data[i] = (add ? target!.data[i]! : 0) + value;
    });
  },
  variants: [
    {
      name: "plain",
      file: "assign/assign.wgsl",
      plan({ inputs, attrs, profile }) {
        const size = numel(inputs[0]!.shape);
        return {
          params: { size },
          defines: { ADD: attrs.add },
          grid: foldGrid(Math.ceil(size / 1024), profile),
        };
      },
    },
  ],
  samples: () => [
    { name: "copy", inputs: [{ shape: [7, 5] }, { shape: [7, 5] }], attrs: { add: false } },
    { name: "add", inputs: [{ shape: [1027] }, { shape: [1027] }], attrs: { add: true } },
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
