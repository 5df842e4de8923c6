// Attention as one reads it in the paper: a thread owns a query, walks the keys once, and keeps the softmax online
// (running maximum, running sum, running weighted mean of values), so that no [T, S] tensor exists.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<T0>;
@group(0) @binding(2) var<storage, read> key: array<T1>;
@group(0) @binding(3) var<storage, read> value: array<T2>;
#if MASKED
@group(0) @binding(4) var<storage, read> mask: array<u32>;
#endif
#if SEGMENTED
@group(0) @binding(5) var<storage, read> segments: array<i32>;
#endif
@group(0) @binding(6) var<storage, read_write> out: array<U0>;
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;
#import "attention/layout.wgsl"

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  let head = id.y;
  let batch = id.z;
  if (i >= params.queries) { return; }
  let q = query_at(batch, head, i);
  var top = LOWEST;
  var total = 0.0;
  var mean: array<f32, HEAD_DIM>;
  let end = select(params.keys, min(params.keys, i + 1u), params.causal != 0u);
  for (var j = 0u; j < end; j++) {
    if (!visible(batch, head, i, j)) { continue; }
    let k = key_at(batch, head / params.group, j);
    let v = value_at(batch, head / params.group, j);
    var score = 0.0;
    for (var c = 0u; c < params.head_dim; c++) {
      score = fma(f32(query[q + c * params.query.w]), f32(key[k + c * params.key.w]), score);
    }
    score *= params.scale;
    let higher = max(top, score);
    let keep = exp(top - higher);
    let weight = exp(score - higher);
    top = higher;
    total = fma(total, keep, weight);
    for (var c = 0u; c < params.head_dim; c++) {
      mean[c] = fma(mean[c], keep, weight * f32(value[v + c * params.value.w]));
    }
  }
  let norm = select(0.0, 1.0 / total, total > 0.0);
  let o = ((batch * params.queries + i) * params.heads + head) * params.head_dim;
  for (var c = 0u; c < params.head_dim; c++) { out[o + c] = U0(mean[c] * norm); }
  lse[(batch * params.heads + head) * params.queries + i] = select(0.0, top + log(total), total > 0.0);
}
