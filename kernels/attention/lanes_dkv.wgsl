// dK and dV with a lane for a key, which share SG query rows at a time: as lanes.wgsl does it.
// The heads of a group follow each other, so that sums have one order.
#import "attention/layout.wgsl"

@compute @workgroup_size(SG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
  let first = group.x * SG;
  let kv_head = group.y;
  let batch = group.z;
  let j = min(first + lane, params.keys - 1u);
  var k: array<vec4<f32>, HEAD_DIM4>;
  var v: array<vec4<f32>, HEAD_DIM4>;
  var key_sum: array<vec4<f32>, HEAD_DIM4>;
  var value_sum: array<vec4<f32>, HEAD_DIM4>;
  var trace = 0.0;
  let k_at = key_at(batch, kv_head, j) / 4u;
  let v_at = value_at(batch, kv_head, j) / 4u;
  for (var c = 0u; c < params.head_dim / 4u; c++) {
#unroll C MOVED
    k[C] = k[C + 1];
    v[C] = v[C + 1];
#end
    k[MOVED] = params.scale * vec4<f32>(key[k_at + c]);
    v[MOVED] = vec4<f32>(value[v_at + c]);
  }
#if RANGES
  let segment = segment_of(batch, j);
  let low = subgroupMin(segment);
  let high = subgroupMax(segment);
#endif
  // Queries before the first key of this subgroup see none of its keys.
  let start = select(0u, first, params.causal != 0u);
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    for (var i = start; i < params.queries; i += SG) {
      let rows = (batch * params.heads + head) * params.queries;
      let own = min(i + lane, params.queries - 1u);
      let row = stats[rows + own];
      let q_at = query_at(batch, head, own) / 4u;
      let g_at = grad_at(batch, head, own) / 4u;
      var q: array<vec4<f32>, HEAD_DIM4>;
      var g: array<vec4<f32>, HEAD_DIM4>;
#if RANGES
      let theirs = segment_of(batch, own);
      if (subgroupMax(theirs) < low || subgroupMin(theirs) > high) { continue; }
#endif
      var s = array<f32, SG>();
      var along = array<f32, SG>();
#unroll C HEAD_DIM4
      q[C] = vec4<f32>(query[q_at + C]);
      g[C] = vec4<f32>(grad[g_at + C]);
#unroll I SG
      {
        let x = subgroupBroadcast(q[C], I);
        let y = subgroupBroadcast(g[C], I);
        s[I] = fma(k[C].x, x.x, fma(k[C].y, x.y, fma(k[C].z, x.z, fma(k[C].w, x.w, s[I]))));
        along[I] = fma(v[C].x, y.x, fma(v[C].y, y.y, fma(v[C].z, y.z, fma(v[C].w, y.w, along[I]))));
      }
#end
#end
#unroll I SG
      s[I] -= subgroupBroadcast(row.x, I);
      trace += s[I];
      s[I] = exp(s[I]);
#end
      if (PAIRS == 1 || i + SG > params.queries || (params.causal != 0u && i < first + SG)) {
#if KEY_MASK
        let allowed = mask[mask_at(batch, head, 0u, j)] != 0u;
#endif
#unroll I SG
        {
          let at = i + I;
          var seen = at < params.queries && (params.causal == 0u || j <= at);
#if MASK_ROWS
          seen = seen && mask[mask_at(batch, head, min(at, params.queries - 1u), j)] != 0u;
#endif
#if KEY_MASK
          seen = seen && allowed;
#endif
#if RANGES
          seen = seen && subgroupBroadcast(theirs, I) == segment;
#endif
          s[I] = select(0.0, s[I], seen);
        }
#end
      }
#unroll I SG
      along[I] = s[I] * (along[I] - subgroupBroadcast(row.y, I));
#end
#unroll C HEAD_DIM4
#unroll I SG
      value_sum[C] = fma(vec4<f32>(s[I]), subgroupBroadcast(g[C], I), value_sum[C]);
      key_sum[C] = fma(vec4<f32>(along[I]), subgroupBroadcast(q[C], I), key_sum[C]);
#end
#end
    }
  }
  if (first + lane < params.keys) {
    let o = ((batch * params.keys + j) * (params.heads / params.group) + kv_head) * HEAD_DIM4;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
      trace += across(key_sum[0]) + across(value_sum[0]);
      dk[o + c] = U0v(params.scale * key_sum[0]);
      dv[o + c] = U0v(value_sum[0]);
#unroll C MOVED
      key_sum[C] = key_sum[C + 1];
      value_sum[C] = value_sum[C + 1];
#end
    }
    if (!is_finite(trace)) { dk[o] = U0v(vec4<f32>(quiet_nan(trace))); }
  }
}
