import { defineOp, type Op, opError, type SampleInput } from "../../core/op.ts";
import { broadcastShapes, numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { isIndex } from "../embedding/op.ts";
import { foldGrid } from "../include/grid.ts";
import { wrapping } from "../reduce/lower.ts";
import { dropAxes } from "../views/axes.ts";
import { expand, reshape, unsqueeze } from "../views/index.ts";

type None = Record<string, never>;

const integerMatmulOp: Op<None> = defineOp<None>({
  name: "integer_matmul",
  doc: "y [B, M, N] = a [B, M, K] b [B, K, N] for i32 or u32; products and sums wrap around at 2^32.",
  infer(inputs) {
    const [a, b] = inputs;
    const [batch, m, k] = a.shape;
    const fits = a.shape.length === 3 && b?.shape.length === 3 && b.shape[0] === batch && b.shape[1] === k;
    if (!fits || !isIndex(a) || b.dtype !== a.dtype)
      throw opError(
        "matmul",
        inputs,
        "expected [..., M, K] and [..., K, N], both of one dtype: f32, f16, i32 or u32",
      );
    return [{ shape: [batch, m, b.shape[2]], dtype: a.dtype }];
  },
  reference([a, b], _attrs, [y]) {
    const [, m, k] = a.shape;
    const n = b.shape[2];
    const add = wrapping(y.dtype, (x, z) => x + z);
    y.data.forEach((_, i) => {
      const row = Math.floor(i / n);
      const right = Math.floor(row / m) * k * n + (i % n);
      for (let j = 0; j < k; j++)
        y.data[i] = add(y.data[i], Math.imul(a.data[row * k + j], b.data[right + j * n]));
    });
  },
  notDifferentiable: "integers have no derivatives",
  file: "integer_matmul/plain.wgsl",
  plan({ inputs: [a, b], outputs: [y], profile }) {
    const size = numel(y.shape);
    const [, m, k] = a.shape;
    return { params: { size, m, n: b.shape[2], k }, grid: foldGrid(Math.ceil(size / 64), profile) };
  },
  samples: () => {
    const of = (name: string, a: SampleInput, b: SampleInput) => ({ name, inputs: [a, b], attrs: {} });
    const i32 = (...shape: number[]): SampleInput => ({ shape, dtype: "i32", range: [-9, 9] });
    const u32 = (shape: number[], values: number[]): SampleInput => ({ shape, dtype: "u32", values });
    return [
      of("odd", i32(2, 3, 5), i32(2, 5, 7)),
      of(
        "wraps around",
        u32([1, 2, 3], [4294967040, 65537, 3]),
        u32([1, 3, 2], [4000000000, 2147483648, 70001]),
      ),
      of("empty", i32(1, 2, 0), i32(1, 0, 3)),
    ];
  },
});

/** `matmul` for tensors of integers, with its rules for vectors and batch axes. */
export function integerMatmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank === 0 || b.rank === 0) throw opError("matmul", [a, b], "expected at least one axis each");
  if (a.rank === 1) return dropAxes(integerMatmul(unsqueeze(a, 0), b), [Math.max(0, b.rank - 2)]);
  if (b.rank === 1) return dropAxes(integerMatmul(a, unsqueeze(b, 1)), [a.rank - 1]);
  const batch = broadcastShapes("matmul", [a.shape.slice(0, -2), b.shape.slice(0, -2)]);
  const flat = (t: Tensor) => {
    const matrix = t.shape.slice(-2);
    return reshape(expand(t, [...batch, ...matrix]), [numel(batch), ...matrix]);
  };
  const y = apply(integerMatmulOp, [flat(a), flat(b)], {})[0];
  return reshape(y, [...batch, a.shape[a.rank - 2], b.shape[b.rank - 1]]);
}
