// One subgroup reduces one row (or one chunk of a row) without a barrier. COMBINE is the operation on a and b.
// KEEP_NAN: a sum beside it, NaN where an element is or infinities meet, tells whether to look for NaN, by bits.
struct Params {
  results: u32,
  n: u32, // loads in a row; IN holds one or four elements
  chunk: u32, // loads of one worker
  run: u32, // loads that are combined by themselves first, with RUNS: a long sum keeps more digits
  chunks: u32, // workers of one row
  identity: S,
  scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<IN>;
@group(0) @binding(2) var<storage, read_write> out: array<OUT>;

#if KEEP_NAN
#import "include/special.wgsl"
fn across(v: V) -> S {
#if WIDE
  return (v.x + v.y) + (v.z + v.w);
#else
  return v;
#endif
}
#endif

fn combine(a: S, b: S) -> S { return COMBINE; }
fn combine_lanes(a: V, b: V) -> V { return COMBINE; }

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let lane = local % u32(SG);
  let result = (group.x + group.y * groups.x) * (u32(WG) / u32(SG)) + local / u32(SG);
  let row = result / params.chunks;
  let start = (result % params.chunks) * params.chunk;
  // Subgroups beyond the end stay in step with an empty row.
  let end = select(0u, min(start + params.chunk, params.n), result < params.results);
  var lanes = V(params.identity);
#if KEEP_NAN
  var check = S(0);
#endif
  var i = start + lane;
#if RUNS
  while (i < end) {
    let stop = min(i + params.run * u32(SG), end);
#else
  {
    let stop = end;
#endif
    var part = V(params.identity);
    for (; i < stop; i += u32(SG)) {
      let value = V(x[row * params.n + i]);
      part = combine_lanes(part, value);
#if KEEP_NAN
      check += across(value);
#endif
    }
    lanes = combine_lanes(lanes, part);
  }
#if WIDE
  var total = combine(combine(lanes.x, lanes.y), combine(lanes.z, lanes.w));
#else
  var total = lanes;
#endif
  for (var step = u32(SG) / 2u; step > 0u; step /= 2u) {
    total = combine(total, subgroupShuffleXor(total, step));
  }
#if KEEP_NAN
  var found = false;
  if ((bitcast<u32>(check) & 0x7fffffffu) > 0x7f800000u) {
    for (var i = start + lane; i < end; i += u32(SG)) {
      found |= any(is_nan(V(x[row * params.n + i])));
    }
  }
  if (subgroupAny(found)) { total = bitcast<f32>(0x7fc00000u | bitcast<u32>(total)); }
#endif
  if (lane == 0u && result < params.results) {
#if FLOAT
    out[result] = OUT(total * params.scale);
#else
    out[result] = OUT(total);
#endif
  }
}
