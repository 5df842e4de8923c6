import type { RefTensor } from "../../core/op.ts";
import type { AttentionAttrs } from "./plan.ts";

interface Problem {
  batches: number;
  heads: number;
  group: number;
  queries: number;
  keys: number;
  dim: number;
  at: (t: RefTensor, batch: number, head: number, position: number) => number;
  visible: (batch: number, head: number, i: number, j: number) => boolean;
}

function problem(
  query: RefTensor,
  key: RefTensor,
  extras: readonly RefTensor[],
  attrs: AttentionAttrs,
): Problem {
  const [batches, heads, queries, dim] = query.shape as [number, number, number, number];
  const [, kvHeads, keys] = key.shape as [number, number, number];
  const mask = attrs.masked ? extras[0] : null;
  const segments = attrs.segmented ? extras[attrs.masked ? 1 : 0] : null;
  const visible: Problem["visible"] = (b, h, i, j) => {
    if (attrs.causal && j > i) return false;
    if (segments && segments.data[b * queries + i] !== segments.data[b * queries + j]) return false;
    if (!mask) return true;
    const [mb, mh, mt] = mask.shape as [number, number, number];
    const row = ((mb === 1 ? 0 : b) * mh + (mh === 1 ? 0 : h)) * mt + (mt === 1 ? 0 : i);
    return mask.data[row * keys + j] !== 0;
  };
  const at: Problem["at"] = (t, b, h, p) => ((b * t.shape[1] + h) * t.shape[2] + p) * dim;
  return { batches, heads, group: heads / kvHeads, queries, keys, dim, at, visible };
}

function dot(a: Float64Array, i: number, b: Float64Array, j: number, length: number): number {
  let sum = 0;
  for (let c = 0; c < length; c++) sum += a[i + c] * b[j + c];
  return sum;
}

function forEachRow(p: Problem, visit: (batch: number, head: number, i: number) => void): void {
  for (let b = 0; b < p.batches; b++) {
    for (let h = 0; h < p.heads; h++) for (let i = 0; i < p.queries; i++) visit(b, h, i);
  }
}

/** Scores below this count as -infinity. */
const lowest = -1e29;

/** softmax(scale * query key^T) value, one row at a time; `out` is [B, T, H, D], `lse` [B, H, T]. */
export function attentionForward(
  inputs: readonly RefTensor[],
  attrs: AttentionAttrs,
  outputs: readonly RefTensor[],
) {
  const [query, key, value, ...extras] = inputs as [RefTensor, RefTensor, RefTensor, ...RefTensor[]];
  const [out, lse] = outputs as [RefTensor, RefTensor];
  const p = problem(query, key, extras, attrs);
  forEachRow(p, (b, h, i) => {
    const kv = Math.floor(h / p.group);
    const seen: number[] = [];
    for (let j = 0; j < p.keys; j++) if (p.visible(b, h, i, j)) seen.push(j);
    const scores = seen.map(
      (j) => attrs.scale * dot(query.data, p.at(query, b, h, i), key.data, p.at(key, b, kv, j), p.dim),
    );
    const top = scores.reduce((m, s) => Math.max(m, s), Number.NEGATIVE_INFINITY);
    // Nothing to weigh: out and lse stay 0.
    if (top < lowest) return;
    const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0);
    const row = ((b * p.queries + i) * p.heads + h) * p.dim;
    seen.forEach((j, n) => {
      const weight = Math.exp(scores[n] - top) / total;
      for (let c = 0; c < p.dim; c++) out.data[row + c] += weight * value.data[p.at(value, b, kv, j) + c];
    });
    lse.data[(b * p.heads + h) * p.queries + i] = top + Math.log(total);
  });
}

/** The derivative, from the saved output and log-sum-exp; dq is [B, T, H, D], dk and dv [B, S, KV, D]. */
export function attentionBackward(
  inputs: readonly RefTensor[],
  attrs: AttentionAttrs & { lseGrad: boolean },
  outputs: readonly RefTensor[],
) {
  const [grad, query, key, value, out, lse, ...extras] = inputs as [
    RefTensor,
    RefTensor,
    RefTensor,
    RefTensor,
    RefTensor,
    RefTensor,
    ...RefTensor[],
  ];
  const [dq, dk, dv] = outputs as [RefTensor, RefTensor, RefTensor];
  const lseGrad = attrs.lseGrad ? extras[extras.length - 1] : null;
  const p = problem(query, key, extras, attrs);
  forEachRow(p, (b, h, i) => {
    const kv = Math.floor(h / p.group);
    const stat = (b * p.heads + h) * p.queries + i;
    const q = p.at(query, b, h, i);
    const o = ((b * p.queries + i) * p.heads + h) * p.dim;
    const g = grad.data.subarray(o, o + p.dim);
    const delta = dot(g, 0, out.data, o, p.dim) - (lseGrad?.data[stat] ?? 0);
    for (let j = 0; j < p.keys; j++) {
      if (!p.visible(b, h, i, j)) continue;
      const k = p.at(key, b, kv, j);
      const v = p.at(value, b, kv, j);
      const weight = Math.exp(attrs.scale * dot(query.data, q, key.data, k, p.dim) - lse.data[stat]);
      const ds = attrs.scale * weight * (dot(g, 0, value.data, v, p.dim) - delta);
      const row = ((b * p.keys + j) * (p.heads / p.group) + kv) * p.dim;
      for (let c = 0; c < p.dim; c++) {
        dq.data[o + c] += ds * key.data[k + c];
        dk.data[row + c] += ds * query.data[q + c];
        dv.data[row + c] += weight * g[c];
      }
    }
  });
}
