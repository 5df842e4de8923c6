import type { DType } from "../../core/dtype.ts";
import { defineOp } from "../../core/op.ts";
import { numel, type Shape } from "../../core/shape.ts";
import { foldGrid } from "../include/grid.ts";

/** What `full` of core/tensor.ts calls, by name. */
defineOp<{ shape: Shape; value: number; dtype: DType }>({
  name: "fill",
  doc: "A tensor of the given shape and dtype with every element equal to value.",
  infer: (_inputs, { shape, dtype }) => [{ shape, dtype }],
  reference(_inputs, { value, dtype }, [out]) {
    out.data.fill(dtype === "bool" ? Number(value !== 0) : value);
  },
  file: "fill/fill.wgsl",
  plan({ outputs, attrs, profile }) {
    const size = numel(outputs[0].shape);
    const value = attrs.dtype === "bool" ? Number(attrs.value !== 0) : attrs.value;
    const float = attrs.dtype === "f32" || attrs.dtype === "f16";
    return {
      params: { size, float_value: float ? value : 0, int_value: float ? 0 : value },
      defines: { FLOAT: float },
      grid: foldGrid(Math.ceil(size / 256), profile),
    };
  },
  samples: () => [
    { name: "f32", inputs: [], attrs: { shape: [3, 5], value: -1.5, dtype: "f32" } },
    { name: "i32", inputs: [], attrs: { shape: [300], value: -7, dtype: "i32" } },
    { name: "bool", inputs: [], attrs: { shape: [2, 2], value: 1, dtype: "bool" } },
    { name: "empty", inputs: [], attrs: { shape: [0, 4], value: 1, dtype: "f32" } },
  ],
});
