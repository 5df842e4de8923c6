import { isFloat } from "../../core/dtype.ts";
import { defineOp, type Lowering, type Op, opError } from "../../core/op.ts";
import { normalizeDim } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { flip, reshape } from "../views/index.ts";
import { blocks, chunkSums, computeType, wrapping } from "./lower.ts";
import { sumReducer } from "./sum.ts";

const cumsumOp: Op<{ dim: number }> = defineOp<{ dim: number }>({
  name: "cumsum",
  doc: "Running sums along an axis: y[i] = x[0] + … + x[i]. Bool counts as i32; integers wrap around at 2^32.",
  infer(inputs, { dim }) {
    const { shape, dtype } = inputs[0];
    if (dim < 0 || dim >= shape.length) throw opError("cumsum", inputs, `has no axis ${dim}`);
    return [{ shape, dtype: dtype === "bool" ? "i32" : dtype }];
  },
  reference([x], { dim }, [out]) {
    const { n, inner } = blocks(x!.shape, [dim]);
    const plain = sumReducer.f;
    const add = isFloat(out!.dtype) ? plain : wrapping(out!.dtype, plain);
    for (let i = 0; i < x!.data.length; i++) {
      const first = Math.floor(i / inner) % n === 0;
      out!.data[i] = add(x!.data[i], first ? 0 : out!.data[i - inner]);
    }
  },
  gradient: ({ attrs: { dim } }, [dy]) => [flip(cumsum(flip(dy!, dim), dim), dim)],
  variants: [
    {
      name: "chunks",
      file: "reduce/cumsum.wgsl",
      plan(call): Lowering {
        const size = blocks(call.inputs[0].shape, [call.attrs.dim]);
        // A thread takes a chunk; its start is the sum of the chunks before it: n extra reads at sqrt(n) chunks.
        const chunk = size.n <= 64 ? Math.max(1, size.n) : Math.ceil(Math.sqrt(size.n));
        const chunks = Math.ceil(size.n / chunk);
        const results = size.outer * chunks * size.inner;
        const pass = {
          defines: { CHUNKED: chunks > 1, S: computeType(call.outputs[0].dtype) },
          params: { results, n: size.n, inner: size.inner, chunk, chunks },
          grid: foldGrid(Math.ceil(results / 64), call.profile),
        };
        if (chunks <= 1) return { passes: [pass] };
        const dtype = computeType(call.outputs[0].dtype);
        const totals = chunkSums(call, size, chunk, sumReducer);
        return {
          temps: [{ dtype, length: results }],
          passes: [totals, { ...pass, bind: ["in0", "out0", "tmp0"] }],
        };
      },
    },
  ],
  secondOrder: true,
  samples: () => [
    { name: "last", inputs: [{ shape: [3, 5, 7] }], attrs: { dim: 2 } },
    { name: "first", inputs: [{ shape: [9, 8] }], attrs: { dim: 0 } },
    { name: "chunks", inputs: [{ shape: [2, 333] }], attrs: { dim: 1 }, atol: 1e-4, gradcheck: false },
    {
      name: "chunks of columns",
      inputs: [{ shape: [100, 4] }],
      attrs: { dim: 0 },
      atol: 1e-4,
      gradcheck: false,
    },
    { name: "i32", inputs: [{ shape: [77], dtype: "i32", range: [-9, 9] }], attrs: { dim: 0 } },
  ],
});

/** Running sums along `dim`. */
export function cumsum(x: Tensor, dim: number): Tensor {
  const axis = normalizeDim("cumsum", dim, x);
  if (x.rank === 0) return reshape(cumsum(reshape(x, [1]), 0), []);
  return apply(cumsumOp, [x], { dim: axis })[0];
}
