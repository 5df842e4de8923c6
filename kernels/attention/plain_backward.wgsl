// The derivatives of attention: a thread owns a query and walks the keys it sees (dQ), or with KEYS_STAY owns a key and
// walks the queries that see it, head after head of its group (dK and dV): no atomics, one order.
// MEND: as in plain.wgsl, rows whose dq or dk begins with NaN.
#import "attention/layout.wgsl"

/// The weight of key j for query i, recomputed from the saved log-sum-exp, and the derivative of their score,
/// weight * (grad . value - delta), times the scale.
fn weight_and_change(batch: u32, head: u32, i: u32, j: u32) -> vec2<f32> {
  let q = query_at(batch, head, i);
  let g = grad_at(batch, head, i);
  let k = key_at(batch, head / params.group, j);
  let v = value_at(batch, head / params.group, j);
  let row = stats[(batch * params.heads + head) * params.queries + i];
  var score = 0.0;
  var along = 0.0;
  for (var c = 0u; c < params.head_dim; c++) {
    score = fma(f32(query[q + c * params.query.w]), f32(key[k + c * params.key.w]), score);
    along = fma(f32(grad[g + c * params.grad.w]), f32(value[v + c * params.value.w]), along);
  }
  let weight = exp_kept(score * params.scale - row.x);
  return vec2<f32>(weight, weight * (along - row.y) * params.scale);
}

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let batch = id.z;
#if KEYS_STAY
  let j = id.x;
  let kv_head = id.y;
  if (j >= params.keys) { return; }
  let o = ((batch * params.keys + j) * (params.heads / params.group) + kv_head) * params.head_dim;
#if MEND
  if (!is_nan(f32(dk[o]))) { return; }
#endif
  var key_sum: array<f32, HEAD_DIM>;
  var value_sum: array<f32, HEAD_DIM>;
  let start = select(0u, j, params.causal != 0u);
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    for (var i = start; i < params.queries; i++) {
      if (!visible(batch, head, i, j)) { continue; }
      let found = weight_and_change(batch, head, i, j);
      let q = query_at(batch, head, i);
      let g = grad_at(batch, head, i);
      for (var c = 0u; c < params.head_dim; c++) {
        key_sum[c] = fma(found.y, f32(query[q + c * params.query.w]), key_sum[c]);
        value_sum[c] = fma(found.x, f32(grad[g + c * params.grad.w]), value_sum[c]);
      }
    }
  }
  for (var c = 0u; c < params.head_dim; c++) {
    dk[o + c] = U0(key_sum[c]);
    dv[o + c] = U0(value_sum[c]);
  }
#else
  let i = id.x;
  let head = id.y;
  if (i >= params.queries) { return; }
  let o = ((batch * params.queries + i) * params.heads + head) * params.head_dim;
#if MEND
  if (!is_nan(f32(dq[o]))) { return; }
#endif
  var sum: array<f32, HEAD_DIM>;
  let end = select(params.keys, min(params.keys, i + 1u), params.causal != 0u);
  for (var j = 0u; j < end; j++) {
    if (!visible(batch, head, i, j)) { continue; }
    let change = weight_and_change(batch, head, i, j).y;
    let k = key_at(batch, head / params.group, j);
    for (var c = 0u; c < params.head_dim; c++) { sum[c] = fma(change, f32(key[k + c * params.key.w]), sum[c]); }
  }
  for (var c = 0u; c < params.head_dim; c++) { dq[o + c] = U0(sum[c]); }
#endif
}
