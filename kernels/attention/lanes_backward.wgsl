// The derivatives of attention with a lane for a row, as lanes.wgsl computes the result. One source for both kernels: for
// dQ a lane keeps a query, and its subgroup shares SG keys at a time; for dK and dV (KEYS_STAY) a lane keeps a key and shares
// the queries of every head that reads it, head after head, so that sums have one order.
#import "attention/layout.wgsl"

// Where rows begin in their two tensors, query and grad or key and value, and four components of each.
#if KEYS_STAY
fn own_at(batch: u32, head: u32, j: u32) -> vec2u { return vec2u(key_at(batch, head, j), value_at(batch, head, j)) / 4u; }
fn own_first(at: u32) -> vec4f { return vec4f(key[at]); }
fn own_second(at: u32) -> vec4f { return vec4f(value[at]); }
fn shared_at(batch: u32, head: u32, i: u32) -> vec2u { return vec2u(query_at(batch, head, i), grad_at(batch, head, i)) / 4u; }
fn shared_first(at: u32) -> vec4f { return vec4f(query[at]); }
fn shared_second(at: u32) -> vec4f { return vec4f(grad[at]); }
/// The query and the key among two rows.
fn pair(own: u32, other: u32) -> vec2u { return vec2u(other, own); }
#else
fn own_at(batch: u32, head: u32, i: u32) -> vec2u { return vec2u(query_at(batch, head, i), grad_at(batch, head, i)) / 4u; }
fn own_first(at: u32) -> vec4f { return vec4f(query[at]); }
fn own_second(at: u32) -> vec4f { return vec4f(grad[at]); }
fn shared_at(batch: u32, head: u32, j: u32) -> vec2u {
  return vec2u(key_at(batch, head / params.group, j), value_at(batch, head / params.group, j)) / 4u;
}
fn shared_first(at: u32) -> vec4f { return vec4f(key[at]); }
fn shared_second(at: u32) -> vec4f { return vec4f(value[at]); }
fn pair(own: u32, other: u32) -> vec2u { return vec2u(own, other); }
#endif

@compute @workgroup_size(SG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let base = group.x * SG;
  let batch = group.z;
#if KEYS_STAY
  let rows = params.keys;
  let heads = params.heads / params.group;
  let shared_rows = params.queries;
  // Queries before the first key of this subgroup see none of its keys.
  let start = select(0u, base, params.causal != 0u);
  let end = params.queries;
  var value_sum: array<vec4f, HEAD_DIM4>;
#else
  let rows = params.queries;
  let heads = params.heads;
  let shared_rows = params.keys;
  let start = 0u;
  let end = select(params.keys, min(params.keys, base + SG), params.causal != 0u);
#endif
  let own = min(base + lane, rows - 1u);
  let own_place = own_at(batch, group.y, own);
  var first: array<vec4f, HEAD_DIM4>;
  var second: array<vec4f, HEAD_DIM4>;
  var sum: array<vec4f, HEAD_DIM4>;
  var trace = 0.0;
  for (var c = 0u; c < params.head_dim / 4u; c++) {
#unroll C MOVED
    first[C] = first[C + 1];
    second[C] = second[C + 1];
#end
    first[MOVED] = params.scale * own_first(own_place.x + c);
    second[MOVED] = own_second(own_place.y + c);
  }
#if RANGES
  let segment = segment_of(batch, own);
  let low = subgroupMin(segment);
  let high = subgroupMax(segment);
#endif
#if KEYS_STAY
  for (var head = group.y * params.group; head < (group.y + 1u) * params.group; head++) {
#else
  let head = group.y;
  let row = stats[(batch * params.heads + head) * params.queries + own];
#endif
  for (var m = start; m < end; m += SG) {
    let other = min(m + lane, shared_rows - 1u);
    let place = shared_at(batch, head, other);
#if KEYS_STAY
    let row = stats[(batch * params.heads + head) * params.queries + other];
#endif
#if RANGES
    let theirs = segment_of(batch, other);
    if (subgroupMax(theirs) < low || subgroupMin(theirs) > high) { continue; }
#endif
    var x: array<vec4f, HEAD_DIM4>;
#if KEYS_STAY
    var y: array<vec4f, HEAD_DIM4>;
#endif
    var weight = array<f32, SG>();
    var change = array<f32, SG>();
#unroll C HEAD_DIM4
    {
      x[C] = shared_first(place.x + C);
      let mine = shared_second(place.y + C);
#if KEYS_STAY
      y[C] = mine;
#endif
#unroll K SG
      {
        let a = subgroupBroadcast(x[C], K);
        let b = subgroupBroadcast(mine, K);
        weight[K] = fma(first[C].x, a.x, fma(first[C].y, a.y, fma(first[C].z, a.z, fma(first[C].w, a.w, weight[K]))));
        change[K] = fma(second[C].x, b.x, fma(second[C].y, b.y, fma(second[C].z, b.z, fma(second[C].w, b.w, change[K]))));
      }
#end
    }
#end
#unroll K SG
    {
#if KEYS_STAY
      let stat = subgroupBroadcast(row, K);
#else
      let stat = row;
#endif
      weight[K] -= stat.x;
      trace += weight[K];
      weight[K] = exp(weight[K]);
      change[K] = weight[K] * (change[K] - stat.y);
    }
#end
    if (PAIRS == 1 || m + SG > shared_rows || (params.causal != 0u && m < base + SG && base < m + SG)) {
#if KEY_MASK
      let allowed = mask[mask_at(batch, head, 0u, pair(own, other).y)] != 0u;
#endif
#unroll K SG
      {
        let at = pair(own, m + K);
        var seen = m + K < shared_rows && (params.causal == 0u || at.y <= at.x);
#if MASK_ROWS
        seen = seen && mask[mask_at(batch, head, min(at.x, params.queries - 1u), min(at.y, params.keys - 1u))] != 0u;
#endif
#if KEY_MASK
#if KEYS_STAY
        seen = seen && allowed;
#else
        seen = seen && subgroupBroadcast(u32(allowed), K) != 0u;
#endif
#endif
#if RANGES
        seen = seen && subgroupBroadcast(theirs, K) == segment;
#endif
        weight[K] = select(0.0, weight[K], seen);
        change[K] = select(0.0, change[K], seen);
      }
#end
    }
#unroll C HEAD_DIM4
#unroll K SG
#if KEYS_STAY
    value_sum[C] = fma(vec4f(weight[K]), subgroupBroadcast(y[C], K), value_sum[C]);
#endif
    sum[C] = fma(vec4f(change[K]), subgroupBroadcast(x[C], K), sum[C]);
#end
#end
  }
#if KEYS_STAY
  }
#endif
  if (base + lane < rows) {
    let o = ((batch * rows + own) * heads + group.y) * HEAD_DIM4;
    for (var c = 0u; c < params.head_dim / 4u; c++) {
      trace += across(sum[0]);
#if KEYS_STAY
      trace += across(value_sum[0]);
      dk[o + c] = U0v(params.scale * sum[0]);
      dv[o + c] = U0v(value_sum[0]);
#else
      dq[o + c] = U0v(params.scale * sum[0]);
#endif
#unroll C MOVED
      sum[C] = sum[C + 1];
#if KEYS_STAY
      value_sum[C] = value_sum[C + 1];
#endif
#end
    }
#if KEYS_STAY
    if (!is_finite(trace)) { dk[o] = U0v(vec4f(quiet_nan(trace))); }
#else
    if (!is_finite(trace)) { dq[o] = U0v(vec4f(quiet_nan(trace))); }
#endif
  }
}
