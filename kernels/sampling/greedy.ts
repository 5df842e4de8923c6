import { defineOp, type Op, opError } from "../../core/op.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { rowPass, rowsOf, rowVariants } from "../include/row.ts";

type None = Record<string, never>;

/** The id of the highest logit, the lowest of equals. */
function argmax(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

/** Whether logits have a softmax: no NaN or +infinity, and something above -infinity. */
function isDistribution(logits: Float64Array): boolean {
  return !logits.some(Number.isNaN) && Number.isFinite(logits[argmax(logits)]);
}

const greedyTokensOp: Op<None> = defineOp<None>({
  name: "greedy_tokens",
  doc: "ids i32 [R] of the highest logit in each row of f32 [R, V], the lowest id of equals; -1 where a row is no distribution: NaN or +Infinity in it, or nothing but -Infinity. Compares the very bits, so that it says what the host would of the same logits.",
  notDifferentiable: "an index is not continuous",
  f16: false,
  infer(inputs) {
    const [logits] = inputs;
    if (logits?.shape.length !== 2 || logits.shape[1] === 0 || logits.dtype !== "f32")
      throw opError("greedy_tokens", inputs, "expected f32 logits [R, V]");
    return [{ shape: [logits.shape[0]], dtype: "i32" }];
  },
  reference([logits], _attrs, [ids]) {
    const { rows, cols } = rowsOf(logits!);
    for (let r = 0; r < rows; r++) {
      const row = logits!.data.subarray(r * cols, (r + 1) * cols);
      ids!.data[r] = isDistribution(row) ? argmax(row) : -1;
    }
  },
  variants: rowVariants(
    "sampling/greedy.wgsl",
    ({ inputs }) => inputs[0].shape[1],
    (call, worker) => {
      const { rows, cols } = rowsOf(call.inputs[0]);
      return rowPass(call, worker, { rows, cols, params: { cols }, defines: { VEC: 1 } });
    },
  ),
  samples: () => {
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
    const rows = [
      [1, 3, 3, -2, 3, 3, 0, 1],
      [-0, 0, -1, -1, 0, -0, -1, -2],
      [-3, -2, -inf, -7, -1, -1, -4, -1],
      [-inf, -inf, -inf, -inf, -inf, -inf, 1e-40, 1e-41],
      [-inf, -inf, -inf, -inf, -inf, -inf, -inf, -inf],
      [1, 2, 3, inf, 5, 6, 7, 8],
      [1, 2, 3, 4, 5, nan, 7, 8],
      [nan, 2, 3, 4, 5, 6, 7, 8],
    ];
    const of = (name: string, width: number) => ({
      name,
      inputs: [{ shape: [rows.length, width], values: rows.flatMap((row) => row.slice(0, width)) }],
      attrs: {},
    });
    return [
      of("special", 8),
      of("special, odd", 7),
      { name: "odd", inputs: [{ shape: [5, 37] }], attrs: {} },
      { name: "vocabulary", inputs: [{ shape: [3, 2048], range: [-6, 6] }], attrs: {} },
    ];
  },
});

/**
 * Ids i32 [R] that a greedy sampler takes from logits f32 [R, V]: of the highest, the lowest of equals; -1 where a row
 * holds NaN or +Infinity, or nothing but -Infinity.
 */
export function greedyTokens(logits: Tensor): Tensor {
  return apply(greedyTokensOp, [logits], {})[0];
}
