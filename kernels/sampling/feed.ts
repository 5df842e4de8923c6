import { defineOp, type Op, opError } from "../../core/op.ts";
import { apply, type Tensor } from "../../core/tensor.ts";

type None = Record<string, never>;

const feedTokensOp: Op<None> = defineOp<None>({
  name: "feed_tokens",
  doc: "tokens i32 [N] with each negative one, -1 - r, replaced by ids[r] of ids i32 [R] or, where that is negative, by 0.",
  notDifferentiable: "it copies whole numbers",
  f16: false,
  infer(inputs) {
    const [tokens, ids] = inputs;
    const fits = [tokens, ids].every((t) => t?.dtype === "i32" && t.shape.length === 1 && t.shape[0] > 0);
    if (!fits) throw opError("feed_tokens", inputs, "expected i32 tokens [N] and ids [R]");
    return [{ shape: tokens.shape, dtype: "i32" }];
  },
  reference([tokens, ids], _attrs, [fed]) {
    for (let i = 0; i < tokens.data.length; i++) {
      const token = tokens.data[i];
      fed.data[i] = token >= 0 ? token : Math.max(ids.data[-1 - token], 0);
    }
  },
  file: "sampling/feed.wgsl",
  plan: ({ inputs: [{ shape }] }) => ({ params: { size: shape[0] }, grid: [Math.ceil(shape[0] / 64)] }),
  samples: () => [
    {
      name: "mixed",
      inputs: [
        { shape: [7], dtype: "i32", values: [3, -1, 0, -4, -2, 9, -3] },
        { shape: [4], dtype: "i32", values: [11, -1, 12, 13] },
      ],
      attrs: {},
    },
  ],
});

/**
 * Tokens i32 [N] of a step that follows one whose ids [R] are on the device only: -1 - r stands for its row r. Of a row without
 * an id (-1), token 0 is taken.
 */
export function feedTokens(tokens: Tensor, ids: Tensor): Tensor {
  return apply(feedTokensOp, [tokens, ids], {})[0];
}
