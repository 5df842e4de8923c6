// Attention with a lane for ROWS queries, which share the keys and values of SG positions at a time: for adapters whose
// subgroups are a processor's vector registers. A workgroup is one subgroup, each lane loads one key and one value, and
// broadcasts hand them round; no barrier. A load costs such adapters as much as thirty multiplications, a broadcast one.
// Their compilers spell out every load and store lane by lane, so rows are loaded and stored in loops that move the
// array along by one instead of naming each component.
#import "attention/layout.wgsl"

@compute @workgroup_size(SG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
  let first = group.x * (SG * ROWS);
  let head = group.y;
  let batch = group.z;
  let last = params.queries - 1u;
  var q: array<vec4<f32>, ROWS * HEAD_DIM4>;
  var mean: array<vec4<f32>, ROWS * HEAD_DIM4>;
  var top: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  // Sums of scores: what NaN and +infinity leave a trace in. Rows with one are marked for plain.wgsl.
  var trace: array<f32, ROWS>;
  var row: array<u32, ROWS>;
#unroll R ROWS
  row[R] = min(first + R * SG + lane, last);
  top[R] = LOWEST;
  {
    let at = query_at(batch, head, row[R]) / 4u;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
#unroll C MOVED
      q[R * HEAD_DIM4 + C] = q[R * HEAD_DIM4 + C + 1];
#end
      q[R * HEAD_DIM4 + MOVED] = params.scale * vec4<f32>(query[at + c]);
    }
  }
#end
  let end = select(params.keys, min(params.keys, first + SG * ROWS), params.causal != 0u);
#if RANGES
  var segment: array<i32, ROWS>;
#unroll R ROWS
  segment[R] = segment_of(batch, row[R]);
#end
  let low = subgroupMin(min(segment[0], segment[ROWS - 1]));
  let high = subgroupMax(max(segment[0], segment[ROWS - 1]));
#endif
  for (var j = 0u; j < end; j += SG) {
    let own = min(j + lane, params.keys - 1u);
    let k = key_at(batch, head / params.group, own) / 4u;
    let v = value_at(batch, head / params.group, own) / 4u;
#if RANGES
    let theirs = segment_of(batch, own);
    // Segments far apart are skipped whole; the exact comparison comes below.
    if (subgroupMax(theirs) < low || subgroupMin(theirs) > high) { continue; }
#endif
    var s = array<f32, ROWS * SG>();
#unroll C HEAD_DIM4
    {
      let mine = vec4<f32>(key[k + C]);
#unroll K SG
      {
        let x = subgroupBroadcast(mine, K);
#unroll R ROWS
        s[R * SG + K] = fma(q[R * HEAD_DIM4 + C].x, x.x, s[R * SG + K]);
        s[R * SG + K] = fma(q[R * HEAD_DIM4 + C].y, x.y, s[R * SG + K]);
        s[R * SG + K] = fma(q[R * HEAD_DIM4 + C].z, x.z, s[R * SG + K]);
        s[R * SG + K] = fma(q[R * HEAD_DIM4 + C].w, x.w, s[R * SG + K]);
#end
      }
#end
    }
#end
    // Only the last keys and the diagonal need a look at each pair.
    if (PAIRS == 1 || j + SG > params.keys || (params.causal != 0u && j + SG > first)) {
#if KEY_MASK
      let allowed = mask[mask_at(batch, head, 0u, own)];
#endif
#unroll K SG
      {
        let at = j + K;
        var seen = at < params.keys;
#if KEY_MASK
        seen = seen && subgroupBroadcast(allowed, K) != 0u;
#endif
#unroll R ROWS
        {
          var both = seen && (params.causal == 0u || at <= row[R]);
#if MASK_ROWS
          both = both && mask[mask_at(batch, head, row[R], min(at, params.keys - 1u))] != 0u;
#endif
#if RANGES
          both = both && subgroupBroadcast(theirs, K) == segment[R];
#endif
          s[R * SG + K] = select(NOTHING, s[R * SG + K], both);
        }
#end
      }
#end
    }
#unroll R ROWS
    {
      var higher = top[R];
#unroll K SG
      higher = max(higher, s[R * SG + K]);
      trace[R] += s[R * SG + K];
#end
      let keep = exp(top[R] - higher);
      top[R] = higher;
      total[R] *= keep;
#unroll K SG
      s[R * SG + K] = exp(s[R * SG + K] - higher);
      total[R] += s[R * SG + K];
#end
#unroll C HEAD_DIM4
      mean[R * HEAD_DIM4 + C] *= keep;
#end
    }
#end
#unroll C HEAD_DIM4
    {
      let mine = vec4<f32>(value[v + C]);
#unroll K SG
      {
        let x = subgroupBroadcast(mine, K);
#unroll R ROWS
        mean[R * HEAD_DIM4 + C] = fma(vec4<f32>(s[R * SG + K]), x, mean[R * HEAD_DIM4 + C]);
#end
      }
#end
    }
#end
  }
#unroll R ROWS
  if (first + R * SG + lane <= last) {
    let norm = select(0.0, 1.0 / total[R], total[R] > 0.0);
    let o = ((batch * params.queries + row[R]) * params.heads + head) * HEAD_DIM4;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
      let x = mean[R * HEAD_DIM4] * norm;
      trace[R] += across(x);
      out[o + c] = U0v(x);
#unroll C MOVED
      mean[R * HEAD_DIM4 + C] = mean[R * HEAD_DIM4 + C + 1];
#end
    }
    let l = (batch * params.heads + head) * params.queries + row[R];
    lse[l] = select(quiet_nan(trace[R]), select(0.0, top[R] + log(total[R]), total[R] > 0.0), is_finite(trace[R]));
  }
#end
}
