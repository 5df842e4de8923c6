// dQ: a thread owns a query, recomputes each weight from the saved log-sum-exp, and gathers
// ds = weight * (grad . value - delta) times the key. MEND: as in plain.wgsl, rows whose first component is NaN.
#import "attention/layout.wgsl"

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  let head = id.y;
  let batch = id.z;
  if (i >= params.queries) { return; }
  let o = ((batch * params.queries + i) * params.heads + head) * params.head_dim;
#if MEND
  if (!is_nan(f32(dq[o]))) { return; }
#endif
  let q = query_at(batch, head, i);
  let g = grad_at(batch, head, i);
  let row = stats[(batch * params.heads + head) * params.queries + i];
  var sum: array<f32, HEAD_DIM>;
  let end = select(params.keys, min(params.keys, i + 1u), params.causal != 0u);
  for (var j = 0u; j < end; j++) {
    if (!visible(batch, head, i, j)) { continue; }
    let k = key_at(batch, head / params.group, j);
    let v = value_at(batch, head / params.group, j);
    var score = 0.0;
    var along = 0.0;
    for (var c = 0u; c < params.head_dim; c++) {
      score = fma(f32(query[q + c * params.query.w]), f32(key[k + c * params.key.w]), score);
      along = fma(f32(grad[g + c * params.grad.w]), f32(value[v + c * params.value.w]), along);
    }
    let ds = exp_kept(score * params.scale - row.x) * (along - row.y) * params.scale;
    for (var c = 0u; c < params.head_dim; c++) { sum[c] = fma(ds, f32(key[k + c * params.key.w]), sum[c]); }
  }
  for (var c = 0u; c < params.head_dim; c++) { dq[o + c] = U0(sum[c]); }
}
