import { numel } from "../core/shape.ts";
import type { Dispatch } from "../core/webgpu/dispatch.ts";

/** Products of an attention kernel: scores and values; a backward kernel recomputes the scores first. */
const attentionProducts: Record<string, number> = { lanes: 2, plain: 2, dq: 3, dkv: 4 };

/**
 * Multiplications and additions of a dispatch, or null where its memory traffic says more. Attention counts the pairs
 * that a causal mask lets through; what segments and other masks leave out is in the tensors, and counts as done.
 */
export function flopsOf({ op, file, inputs, outputs, attrs }: Dispatch): number | null {
  const kernel = file.replace(/^.*\//, "").replace(".wgsl", "");
  if (op === "matmul" && kernel !== "combine" && kernel !== "to_rows")
    return 2 * numel(outputs[0]!.shape) * inputs[0]!.shape.at(-1)!;
  if (op === "attention" || op === "attention_backward") {
    const products = attentionProducts[kernel.replace(/^.*_/, "")];
    const [query, key] = inputs.slice(op === "attention" ? 0 : 1);
    const [batch, heads, queries, width] = query!.shape as [number, number, number, number];
    const keys = key!.shape[2]!;
    const pairs = (attrs as { causal: boolean }).causal ? (queries * (keys + 1)) / 2 : queries * keys;
    return products ? 2 * products * batch * heads * pairs * width : null;
  }
  return null;
}
