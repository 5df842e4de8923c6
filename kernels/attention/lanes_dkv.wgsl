// dK and dV with a thread for a key, which share GROUP query rows at a time: as lanes.wgsl does it, by broadcasts or TILED.
// The heads of a group follow each other, so that sums have one order.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<vec4<T0>>;
@group(0) @binding(2) var<storage, read> query: array<vec4<T1>>;
@group(0) @binding(3) var<storage, read> key: array<vec4<T2>>;
@group(0) @binding(4) var<storage, read> value: array<vec4<T3>>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;
#if MASKED
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif
#if SEGMENTED
@group(0) @binding(7) var<storage, read> segments: array<i32>;
#endif
@group(0) @binding(8) var<storage, read_write> dk: array<vec4<U1>>;
@group(0) @binding(9) var<storage, read_write> dv: array<vec4<U2>>;
#import "attention/layout.wgsl"

#if TILED
var<workgroup> query_tile: array<vec4<f32>, GROUP * HEAD_DIM4>;
var<workgroup> grad_tile: array<vec4<f32>, GROUP * HEAD_DIM4>;
var<workgroup> stats_tile: array<vec2<f32>, GROUP>;
#endif

@compute @workgroup_size(WIDTH)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(LANE_ID) lane: u32) {
  let first = group.x * WIDTH;
  let kv_head = group.y;
  let batch = group.z;
  let j = min(first + lane, params.keys - 1u);
  var k: array<vec4<f32>, HEAD_DIM4>;
  var v: array<vec4<f32>, HEAD_DIM4>;
  var key_sum: array<vec4<f32>, HEAD_DIM4>;
  var value_sum: array<vec4<f32>, HEAD_DIM4>;
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
    for (var i = start; i < params.queries; i += GROUP) {
      let rows = (batch * params.heads + head) * params.queries;
#if TILED
      workgroupBarrier();
      for (var e = lane; e < GROUP * HEAD_DIM4; e += WIDTH) {
        let n = min(i + e / HEAD_DIM4, params.queries - 1u);
        query_tile[e] = vec4<f32>(query[query_at(batch, head, n) / 4u + e % HEAD_DIM4]);
        grad_tile[e] = vec4<f32>(grad[grad_at(batch, head, n) / 4u + e % HEAD_DIM4]);
      }
      if (lane < GROUP) { stats_tile[lane] = stats[rows + min(i + lane, params.queries - 1u)]; }
      workgroupBarrier();
#else
      let own = min(i + lane, params.queries - 1u);
      let row = stats[rows + own];
      let q_at = query_at(batch, head, own) / 4u;
      let g_at = grad_at(batch, head, own) / 4u;
      var q: array<vec4<f32>, HEAD_DIM4>;
      var g: array<vec4<f32>, HEAD_DIM4>;
#endif
#if RANGES
      let theirs = segment_of(batch, own);
      if (subgroupMax(theirs) < low || subgroupMin(theirs) > high) { continue; }
#endif
      var s = array<f32, GROUP>();
      var along = array<f32, GROUP>();
#unroll C HEAD_DIM4
#if !TILED
      q[C] = vec4<f32>(query[q_at + C]);
      g[C] = vec4<f32>(grad[g_at + C]);
#endif
#unroll I GROUP
      {
#if TILED
        let x = query_tile[I * HEAD_DIM4 + C];
        let y = grad_tile[I * HEAD_DIM4 + C];
#else
        let x = subgroupBroadcast(q[C], I);
        let y = subgroupBroadcast(g[C], I);
#endif
        s[I] = fma(k[C].x, x.x, fma(k[C].y, x.y, fma(k[C].z, x.z, fma(k[C].w, x.w, s[I]))));
        along[I] = fma(v[C].x, y.x, fma(v[C].y, y.y, fma(v[C].z, y.z, fma(v[C].w, y.w, along[I]))));
      }
#end
#end
#unroll I GROUP
#if TILED
      s[I] = exp(s[I] - stats_tile[I].x);
#else
      s[I] = exp(s[I] - subgroupBroadcast(row.x, I));
#endif
#end
      if (PAIRS == 1 || i + GROUP > params.queries || (params.causal != 0u && i < first + WIDTH)) {
#if KEY_MASK
        let allowed = mask[mask_at(batch, head, 0u, j)] != 0u;
#endif
#unroll I GROUP
        {
          let at = i + I;
#if TILED
          let seen = at < params.queries && visible(batch, head, min(at, params.queries - 1u), j);
#else
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
#endif
          s[I] = select(0.0, s[I], seen);
        }
#end
      }
#unroll I GROUP
#if TILED
      along[I] = s[I] * (along[I] - stats_tile[I].y);
#else
      along[I] = s[I] * (along[I] - subgroupBroadcast(row.y, I));
#endif
#end
#unroll C HEAD_DIM4
#unroll I GROUP
#if TILED
      value_sum[C] = fma(vec4<f32>(s[I]), grad_tile[I * HEAD_DIM4 + C], value_sum[C]);
      key_sum[C] = fma(vec4<f32>(along[I]), query_tile[I * HEAD_DIM4 + C], key_sum[C]);
#else
      value_sum[C] = fma(vec4<f32>(s[I]), subgroupBroadcast(g[C], I), value_sum[C]);
      key_sum[C] = fma(vec4<f32>(along[I]), subgroupBroadcast(q[C], I), key_sum[C]);
#endif
#end
#end
    }
  }
  if (first + lane < params.keys) {
    let o = ((batch * params.keys + j) * (params.heads / params.group) + kv_head) * HEAD_DIM4;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
      dk[o + c] = vec4<U1>(params.scale * key_sum[0]);
      dv[o + c] = vec4<U2>(value_sum[0]);
#unroll C MOVED
      key_sum[C] = key_sum[C + 1];
      value_sum[C] = value_sum[C + 1];
#end
    }
  }
}
