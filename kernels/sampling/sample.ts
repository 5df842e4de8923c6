import { defineOp, type Op, opError } from "../../core/op.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { rowPass, rowVariants } from "../include/row.ts";
import { drawToken, MOST_DRAWN, SETTINGS_WIDTH, settingsRow } from "./draw.ts";

type None = Record<string, never>;

const sampleTokensOp: Op<None> = defineOp<None>({
  name: "sample_tokens",
  doc: "ids i32 [R] drawn from each row of logits f32 [R, V], V up to 2^18, as settings i32 [R, 12] say (see settingsRow: temperature, top-k, top-p, min-p, seed, choice and position); -1 where a row is no distribution: NaN or +Infinity in it, or nothing but -Infinity. Computed in whole numbers: every device draws what the host draws of the same bits. A row's id depends on its own logits and settings alone.",
  notDifferentiable: "it draws whole numbers",
  f16: false,
  infer(inputs) {
    const [logits, settings] = inputs;
    const [rows, cols] = logits?.shape ?? [];
    const fits =
      logits?.shape.length === 2 &&
      logits.dtype === "f32" &&
      cols > 0 &&
      cols <= MOST_DRAWN &&
      settings?.dtype === "i32" &&
      settings.shape.join() === `${rows},${SETTINGS_WIDTH}`;
    if (!fits) {
      throw opError(
        "sample_tokens",
        inputs,
        `expected f32 logits [R, V] with V from 1 to ${MOST_DRAWN} and i32 settings [R, ${SETTINGS_WIDTH}]`,
      );
    }
    return [{ shape: [rows], dtype: "i32" }];
  },
  reference([logits, settings], _attrs, [ids]) {
    const [rows, cols] = logits.shape;
    for (let r = 0; r < rows; r++) {
      const words = settings.data.subarray(r * SETTINGS_WIDTH, (r + 1) * SETTINGS_WIDTH);
      ids.data[r] = drawToken(logits.data.subarray(r * cols, (r + 1) * cols), words);
    }
  },
  variants: rowVariants(
    "sampling/sample.wgsl",
    ({ inputs }) => inputs[0].shape[1],
    (call, worker) => {
      const [rows, cols] = call.inputs[0].shape;
      const idBits = 2 * Math.max(1, Math.ceil(Math.log2(cols) / 2));
      const pass = rowPass(call, worker, {
        rows,
        cols,
        params: { cols, idBits, keyBits: 32 },
        defines: { VEC: 1 },
      });
      return { passes: [pass], temps: [{ dtype: "u32", length: rows * cols }] };
    },
  ),
  samples: () => {
    const base = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: [7, 9], choice: 1, position: 5 } as const;
    const each = [
      base,
      { ...base, temperature: 0 },
      { ...base, temperature: 0.7, topK: 5, position: 6 },
      { ...base, temperature: 1.5, topP: 0.8, position: 7 },
      { ...base, topK: 20, topP: 0.9, minP: 0.05, position: 8 },
      { ...base, temperature: 2, minP: 0.1, position: 0xfffffff0 },
    ];
    const settings = {
      shape: [each.length, SETTINGS_WIDTH],
      dtype: "i32" as const,
      values: each.flatMap(settingsRow),
    };
    const of = (name: string, cols: number) => ({
      name,
      inputs: [{ shape: [each.length, cols], range: [-6, 6] as const }, settings],
      attrs: {},
    });
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
    const special = [
      ...[1, 3, 3, -2, 3, 3, 0, 1],
      ...[-0, 0, -1, -1, 0, -0, -1, -2],
      ...[5, 5, 5, 5, 5, 5, 5, -inf],
      ...[-inf, 2, -inf, 2, 2, 1e-40, -1e30, 2],
      ...[1, 2, 3, inf, 5, 6, 7, 8],
      ...[1, 2, 3, 4, 5, nan, 7, 8],
    ];
    return [
      { name: "special", inputs: [{ shape: [6, 8], values: special }, settings], attrs: {} },
      { name: "lost", inputs: [{ shape: [6, 3], values: new Array(18).fill(-inf) }, settings], attrs: {} },
      of("one", 1),
      of("odd", 37),
      of("vocabulary", 2048),
    ];
  },
});

/**
 * Ids i32 [R] drawn from logits f32 [R, V], V up to 2^18, with settings i32 [R, 12] (rows of `settingsRow`); -1 where a row
 * holds NaN or +Infinity, or nothing but -Infinity. The ids are those that `drawToken` draws on the host.
 */
export function sampleTokens(logits: Tensor, settings: Tensor): Tensor {
  return apply(sampleTokensOp, [logits, settings], {})[0];
}
