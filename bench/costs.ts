import { byteSize } from "../core/dtype.ts";
import type { OutputMeta } from "../core/op.ts";
import { numel } from "../core/shape.ts";
import type { Dispatch } from "../core/webgpu/call.ts";
import { byName, type FusedLinearAttrs } from "../kernels/fused_linear/inputs.ts";

/**
 * Products of an attention kernel: scores and values; a backward kernel recomputes the scores first. The two backward kernels
 * are one file, which takes three products for dq and four for dk and dv: each counts as half of both.
 */
const attentionProducts = { attention: 2, attention_backward: 3.5 };

/** Ops that touch only the rows of a table which they look up or write: these rows are all their traffic. */
const lookUps: Record<string, (d: Dispatch) => readonly OutputMeta[]> = {
  embedding: ({ outputs }) => outputs,
  gather: ({ outputs }) => outputs,
  paged_kv_write: ({ inputs }) => inputs.slice(2, 4),
};

/** Bytes that a dispatch reads and writes: of all that it binds, or of the rows that it looks up. */
export function bytesOf(dispatch: Dispatch): number {
  const rows = lookUps[dispatch.op]?.(dispatch);
  if (!rows) return dispatch.bytes;
  return 2 * rows.reduce((sum, { shape, dtype }) => sum + numel(shape) * byteSize(dtype), 0);
}

/**
 * Multiplications and additions of a dispatch, or null where its memory traffic says more. Attention counts the pairs
 * that a causal mask lets through; what segments and other masks leave out is in the tensors, and counts as done.
 */
export function flopsOf({ op, variant, file, inputs, outputs, attrs }: Dispatch): number | null {
  const kernel = file.replace(/^.*\//, "").replace(".wgsl", "");
  if (op === "matmul" && kernel !== "combine" && kernel !== "to_rows")
    return 2 * numel(outputs[0].shape) * inputs[0].shape.at(-1)!;
  if ((op === "fused_linear" || op === "fused_qkv") && kernel !== "rows") {
    const named = Object.entries(byName(inputs, attrs as FusedLinearAttrs));
    const weights = named.filter(([name]) => name.startsWith("weight"));
    return weights.reduce((sum, [, { shape }]) => sum + 2 * outputs[0].shape[0] * numel(shape), 0);
  }
  if (op === "attention" || op === "attention_backward") {
    // Other variants run the plain kernel on the few rows that they marked, which counts as nothing.
    if (kernel === "delta" || (kernel.startsWith("plain") && variant !== "plain")) return null;
    const [query, key] = inputs.slice(op === "attention" ? 0 : 1);
    const [batch, heads, queries, width] = query!.shape as [number, number, number, number];
    const keys = key!.shape[2];
    const pairs = (attrs as { causal: boolean }).causal ? (queries * (keys + 1)) / 2 : queries * keys;
    return 2 * attentionProducts[op] * batch * heads * pairs * width;
  }
  return null;
}
