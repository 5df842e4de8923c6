// dQ: a thread owns a query, recomputes each weight from the saved log-sum-exp, and gathers
// ds = weight * (grad . value - delta) times the key. MEND: as in plain.wgsl, rows whose first component is NaN.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<T0>;
@group(0) @binding(2) var<storage, read> query: array<T1>;
@group(0) @binding(3) var<storage, read> key: array<T2>;
@group(0) @binding(4) var<storage, read> value: array<T3>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;
#if MASKED
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif
#if SEGMENTED
@group(0) @binding(7) var<storage, read> segments: array<i32>;
#endif
@group(0) @binding(8) var<storage, read_write> dq: array<U0>;
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
