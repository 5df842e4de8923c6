import { isFloat, wgslType } from "../../core/dtype.ts";
import { defineOp, opError, type SampleInput } from "../../core/op.ts";
import { broadcastShapes, collapseAxes, numel, rankOf, sameShape } from "../../core/shape.ts";
import { apply, full, type Tensor } from "../../core/tensor.ts";
import { cast, type Operand } from "../elementwise/index.ts";
import { foldGrid } from "../include/grid.ts";
import { vecType } from "../include/vec.ts";
import { expand } from "../reduce/sum.ts";

/** In-place write of one tensor into another: gradient accumulators, caches, and f16 copies of f32 weights. */
const assign = defineOp<{ add: boolean }>({
  name: "assign",
  doc: "target = source, or target += source with add: updates its first input in place. Floats may differ in type and are added in f32; others have one type, and sums of integers wrap around.",
  mutates: [0],
  notDifferentiable: "it overwrites its input",
  infer(inputs, { add }) {
    const [target, source] = inputs;
    const floats = isFloat(target.dtype) && isFloat(source.dtype);
    const same = floats || (target.dtype === source.dtype && !(add && target.dtype === "bool"));
    if (!sameShape(target.shape, source.shape) || !same) {
      throw opError("assign", inputs, "expected two tensors of one shape, floats or others of one type");
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
          defines: { ADD: attrs.add, VEC: vec, SUM: vecType(isFloat(dtype) ? "f32" : dtype, vec) },
          grid: foldGrid(Math.ceil(size / vec / 256), profile),
        };
      },
    },
    {
      name: "strided",
      file: "assign/strided.wgsl",
      strided: true,
      plan({ inputs: [target, source], attrs, profile }) {
        const size = numel(target.shape);
        const { shape, strides } = collapseAxes(target.shape, [target.strides, source.strides]);
        const { dtype } = target;
        return {
          defines: {
            ADD: attrs.add,
            SUM: isFloat(dtype) ? "f32" : wgslType(dtype),
            QUADS: `${Math.ceil(shape.length / 4)}`,
          },
          params: {
            size,
            rank: shape.length,
            target_start: target.offset,
            source_start: source.offset,
            shape: shape.toReversed(),
            target_strides: strides[0].toReversed(),
            source_strides: strides[1].toReversed(),
          },
          grid: foldGrid(Math.ceil(size / 256), profile),
        };
      },
    },
  ],
  samples: () => {
    const of = (name: string, target: SampleInput, source: SampleInput, add: boolean) => ({
      name,
      inputs: [target, source],
      attrs: { add },
    });
    const u32 = { shape: [5], dtype: "u32" } as const;
    const bool = { shape: [5], dtype: "bool" } as const;
    const axes = [2, 3, 2, 5, 2, 7];
    return [
      of("copy", { shape: [7, 5] }, { shape: [7, 5] }, false),
      of("add integers", { ...u32, values: [4294967295, 7, 0, 1, 2] }, { ...u32, range: [1, 9] }, true),
      of("add", { shape: [1027], dtype: "f32" }, { shape: [1027] }, true),
      of("bool", bool, bool, false),
      of("views", { shape: axes, layout: "strided" }, { shape: axes, layout: "transposed" }, true),
    ];
  },
});

/**
 * Overwrites `target`, which may be a view of a part of a tensor, with `source`: `assignInto(x.slice(0), 1)` is PyTorch's
 * `x[0] = 1`. A number fills it, a smaller shape is repeated, and another dtype is cast.
 */
export function assignInto(target: Tensor, source: Operand): void {
  rankOf("assignInto", target);
  const given = typeof source === "number" ? full([], source, target.dtype, target.device) : source;
  const floats = isFloat(target.dtype) && isFloat(given.dtype);
  update("assignInto", target, floats ? given : cast(given, target.dtype), false);
}

/**
 * Adds `source` to `target` in place, as `assignInto` writes it: `addInto(x.slice(":", 1), 5)` is PyTorch's `x[:, 1] += 5`.
 *
 * @throws KilnError where floats would be added to integers
 */
export function addInto(target: Tensor, source: Operand): void {
  rankOf("addInto", target);
  const given = typeof source === "number" ? full([], source, target.dtype, target.device) : source;
  if (isFloat(given.dtype) && !isFloat(target.dtype))
    throw opError("addInto", [target, given], "floats do not fit into integers; cast() one of the two");
  update("addInto", target, isFloat(given.dtype) ? given : cast(given, target.dtype), true);
}

function update(name: string, target: Tensor, source: Tensor, add: boolean): void {
  if (target.strides.some((step, axis) => step === 0 && target.shape[axis] > 1))
    throw opError(
      name,
      [target, source],
      "several elements of the first share their memory; update a copy of it",
    );
  if (!sameShape(broadcastShapes(name, [target.shape, source.shape]), target.shape))
    throw opError(name, [target, source], "the second does not fit into the first");
  const same = sameShape(target.shape, source.shape);
  apply(assign, [target, same ? source : expand(source, target.shape)], { add });
}
