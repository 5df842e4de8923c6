// dK and dV: a thread owns a key and walks the queries that see it, head after head of its group: no atomics, one order.
// MEND: as in plain.wgsl, keys whose dk begins with NaN.
#import "attention/layout.wgsl"

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let j = id.x;
  let kv_head = id.y;
  let batch = id.z;
  if (j >= params.keys) { return; }
  let o = ((batch * params.keys + j) * (params.heads / params.group) + kv_head) * params.head_dim;
#if MEND
  if (!is_nan(f32(dk[o]))) { return; }
#endif
  let k = key_at(batch, kv_head, j);
  let v = value_at(batch, kv_head, j);
  var key_sum: array<f32, HEAD_DIM>;
  var value_sum: array<f32, HEAD_DIM>;
  let start = select(0u, j, params.causal != 0u);
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    for (var i = start; i < params.queries; i++) {
      if (!visible(batch, head, i, j)) { continue; }
      let q = query_at(batch, head, i);
      let g = grad_at(batch, head, i);
      let row = stats[(batch * params.heads + head) * params.queries + i];
      var score = 0.0;
      var along = 0.0;
      for (var c = 0u; c < params.head_dim; c++) {
        score = fma(f32(query[q + c * params.query.w]), f32(key[k + c * params.key.w]), score);
        along = fma(f32(grad[g + c * params.grad.w]), f32(value[v + c * params.value.w]), along);
      }
      let weight = exp_kept(score * params.scale - row.x);
      let ds = weight * (along - row.y) * params.scale;
      for (var c = 0u; c < params.head_dim; c++) {
        key_sum[c] = fma(ds, f32(query[q + c * params.query.w]), key_sum[c]);
        value_sum[c] = fma(weight, f32(grad[g + c * params.grad.w]), value_sum[c]);
      }
    }
  }
  for (var c = 0u; c < params.head_dim; c++) {
    dk[o + c] = U0(key_sum[c]);
    dv[o + c] = U0(value_sum[c]);
  }
}
