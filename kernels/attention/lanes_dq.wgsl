// dQ with a lane for a query, which share SG keys and values at a time: as lanes.wgsl does it.
#import "attention/layout.wgsl"

@compute @workgroup_size(SG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
  let first = group.x * SG;
  let head = group.y;
  let batch = group.z;
  let i = min(first + lane, params.queries - 1u);
  var q: array<vec4<f32>, HEAD_DIM4>;
  var g: array<vec4<f32>, HEAD_DIM4>;
  var sum: array<vec4<f32>, HEAD_DIM4>;
  var trace = 0.0;
  let q_at = query_at(batch, head, i) / 4u;
  let g_at = grad_at(batch, head, i) / 4u;
  for (var c = 0u; c < params.head_dim / 4u; c++) {
#unroll C MOVED
    q[C] = q[C + 1];
    g[C] = g[C + 1];
#end
    q[MOVED] = params.scale * vec4<f32>(query[q_at + c]);
    g[MOVED] = vec4<f32>(grad[g_at + c]);
  }
  let row = stats[(batch * params.heads + head) * params.queries + i];
  let end = select(params.keys, min(params.keys, first + SG), params.causal != 0u);
#if RANGES
  let segment = segment_of(batch, i);
  let low = subgroupMin(segment);
  let high = subgroupMax(segment);
#endif
  for (var j = 0u; j < end; j += SG) {
    let own = min(j + lane, params.keys - 1u);
    let k_at = key_at(batch, head / params.group, own) / 4u;
    let v_at = value_at(batch, head / params.group, own) / 4u;
    var k: array<vec4<f32>, HEAD_DIM4>;
#if RANGES
    let theirs = segment_of(batch, own);
    if (subgroupMax(theirs) < low || subgroupMin(theirs) > high) { continue; }
#endif
    var s = array<f32, SG>();
    var along = array<f32, SG>();
#unroll C HEAD_DIM4
    {
      k[C] = vec4<f32>(key[k_at + C]);
      let v = vec4<f32>(value[v_at + C]);
#unroll K SG
      {
        let x = subgroupBroadcast(k[C], K);
        let y = subgroupBroadcast(v, K);
        s[K] = fma(q[C].x, x.x, fma(q[C].y, x.y, fma(q[C].z, x.z, fma(q[C].w, x.w, s[K]))));
        along[K] = fma(g[C].x, y.x, fma(g[C].y, y.y, fma(g[C].z, y.z, fma(g[C].w, y.w, along[K]))));
      }
#end
    }
#end
#unroll K SG
    s[K] -= row.x;
    trace += s[K];
    s[K] = exp(s[K]) * (along[K] - row.y);
#end
    if (PAIRS == 1 || j + SG > params.keys || (params.causal != 0u && j + SG > first)) {
#if KEY_MASK
      let allowed = mask[mask_at(batch, head, 0u, own)];
#endif
#unroll K SG
      {
        let at = j + K;
        var seen = at < params.keys && (params.causal == 0u || at <= i);
#if MASK_ROWS
        seen = seen && mask[mask_at(batch, head, i, min(at, params.keys - 1u))] != 0u;
#endif
#if KEY_MASK
        seen = seen && subgroupBroadcast(allowed, K) != 0u;
#endif
#if RANGES
        seen = seen && subgroupBroadcast(theirs, K) == segment;
#endif
        s[K] = select(0.0, s[K], seen);
      }
#end
    }
#unroll C HEAD_DIM4
#unroll K SG
    sum[C] = fma(vec4<f32>(s[K]), subgroupBroadcast(k[C], K), sum[C]);
#end
#end
  }
  if (first + lane < params.queries) {
    let o = ((batch * params.queries + i) * params.heads + head) * HEAD_DIM4;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
      trace += across(sum[0]);
      dq[o + c] = U0v(params.scale * sum[0]);
#unroll C MOVED
      sum[C] = sum[C + 1];
#end
    }
    if (!is_finite(trace)) { dq[o] = U0v(vec4<f32>(quiet_nan(trace))); }
  }
}
