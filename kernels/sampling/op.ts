import { isFloat } from "../../core/dtype.ts";
import { defineOp, opError } from "../../core/op.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { rowPass, rowVariants } from "../include/row.ts";
import { isDistribution, type SamplingSettings, sampleToken } from "./reference.ts";

export {
  filteredWeights,
  type SamplingKey,
  type SamplingSettings,
  sampleToken,
} from "./reference.ts";

/** Numbers a row in the settings tensor: temperature, top_k, top_p, min_p, four unused. */
export const settingsWidth = 8;

/** A row of the settings tensor. */
export function settingsRow({ temperature, topK, topP, minP }: SamplingSettings): number[] {
  return [temperature, topK, topP, minP, 0, 0, 0, 0];
}

const sampleTokensOp = defineOp<Record<string, never>>({
  name: "sample_tokens",
  doc: "ids u32 [R] drawn from logits [R, V] with settings f32 [R, 8] (temperature, top_k, top_p, min_p, four unused) and keys u32 [R, 4] (seed low, seed high, choice, position): temperature, then top-k, top-p and min-p in the order of transformers. Temperature 0 takes the highest logit, the lowest id of equals. A row that is no distribution (NaN or +infinity in it, or nothing but -infinity) gives 4294967295, the -1 of greedy_tokens. A row's id depends on its own logits, settings and key alone.",
  notDifferentiable: "it draws whole numbers",
  f16: false,
  infer(inputs) {
    const [logits, settings, keys] = inputs;
    const rows = logits?.shape[0];
    const fits =
      logits?.shape.length === 2 &&
      logits.shape[1] > 0 &&
      isFloat(logits.dtype) &&
      settings?.dtype === "f32" &&
      settings.shape.join() === `${rows},${settingsWidth}` &&
      keys?.dtype === "u32" &&
      keys.shape.join() === `${rows},4`;
    if (!fits)
      throw opError(
        "sample_tokens",
        inputs,
        `expected logits [R, V], settings f32 [R, ${settingsWidth}] and keys u32 [R, 4]`,
      );
    return [{ shape: [rows], dtype: "u32" }];
  },
  reference([logits, settings, keys], _attrs, [ids]) {
    const [rows, vocabulary] = logits.shape;
    for (let row = 0; row < rows; row++) {
      const [temperature, topK, topP, minP] = settings.data.subarray(row * settingsWidth);
      const [low, high, choice, position] = keys.data.subarray(row * 4);
      const x = logits.data.subarray(row * vocabulary, (row + 1) * vocabulary);
      ids.data[row] = isDistribution(x)
        ? sampleToken(x, { temperature, topK, topP, minP }, { seed: [low, high], choice, position })
        : 0xffffffff;
    }
  },
  variants: rowVariants(
    "sampling/sample.wgsl",
    ({ inputs: [logits] }) => logits.shape[1],
    (call, worker) => {
      const [rows, cols] = call.inputs[0].shape;
      return rowPass(call, worker, { rows, cols, params: { cols }, defines: { VEC: 1 } });
    },
  ),
  samples: () => {
    const settings = [
      { temperature: 0, topK: 0, topP: 1, minP: 0 },
      { temperature: 1, topK: 0, topP: 1, minP: 0 },
      { temperature: 0.7, topK: 5, topP: 1, minP: 0 },
      { temperature: 1.5, topK: 0, topP: 0.8, minP: 0 },
      { temperature: 1, topK: 20, topP: 0.9, minP: 0.05 },
    ];
    const of = (name: string, vocabulary: number) => ({
      name,
      inputs: [
        { shape: [settings.length, vocabulary], range: [-6, 6] as const },
        { shape: [settings.length, settingsWidth], values: settings.flatMap(settingsRow) },
        { shape: [settings.length, 4], dtype: "u32" as const, range: [0, 4e9] as const },
      ],
      attrs: {},
    });
    const ties = [1, 3, 3, -2, 3];
    return [
      of("odd", 37),
      of("vocabulary", 2048),
      {
        name: "ties",
        inputs: [
          { shape: [1, 5], values: ties },
          { shape: [1, settingsWidth], values: settingsRow(settings[0]) },
          { shape: [1, 4], dtype: "u32", values: [1, 2, 3, 4] },
        ],
        attrs: {},
      },
    ];
  },
});

/** Draws a token id from each row of logits [R, V]; see the op's doc for settings [R, 8] and keys [R, 4]. */
export function sampleTokens(logits: Tensor, settings: Tensor, keys: Tensor): Tensor {
  return apply(sampleTokensOp, [logits, settings, keys], {})[0];
}
