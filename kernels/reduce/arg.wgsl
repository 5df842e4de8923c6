// out[outer, inner] = the first index along the middle axis of [outer, n, inner] that beats all others.
// LANES threads (a subgroup, or one) share each result.
struct Params { results: u32, n: u32, inner: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> out: array<i32>;

#if FLOAT
#import "include/vec.wgsl"
#import "include/special.wgsl"
#endif
fn beats(a: S, b: S) -> bool { return BEATS; }

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let lane = local % u32(LANES);
  let wanted = (group.x + group.y * groups.x) * u32(WG / LANES) + local / u32(LANES);
  // Threads beyond the end stay in step by doing the last result again.
  let result = min(wanted, params.results - 1u);
  let base = result / params.inner * params.n * params.inner + result % params.inner;
  var best = min(lane, params.n - 1u);
  var value = S(x[base + best * params.inner]);
#if FLOAT
  // NaN where an element is NaN or infinities meet: only then are the bits searched for NaN.
  var check = value;
#endif
  for (var k = lane + u32(LANES); k < params.n; k += u32(LANES)) {
    let candidate = S(x[base + k * params.inner]);
#if FLOAT
    check += candidate;
#endif
    if (beats(candidate, value)) {
      value = candidate;
      best = k;
    }
  }
#if !ALONE
  for (var step = u32(LANES) / 2u; step > 0u; step /= 2u) {
    let other = subgroupShuffleXor(value, step);
    let index = subgroupShuffleXor(best, step);
    if (beats(other, value) || (other == value && index < best)) {
      value = other;
      best = index;
    }
  }
#endif
#if FLOAT
  var nan_at = params.n;
  if (is_nan(check)) {
    for (var k = lane; k < params.n && nan_at == params.n; k += u32(LANES)) {
      if (is_nan(S(x[base + k * params.inner]))) { nan_at = k; }
    }
  }
#if !ALONE
  for (var step = u32(LANES) / 2u; step > 0u; step /= 2u) { nan_at = min(nan_at, subgroupShuffleXor(nan_at, step)); }
#endif
  best = select(best, nan_at, nan_at < params.n);
#endif
  if (lane == 0u && wanted < params.results) { out[result] = i32(best); }
}
