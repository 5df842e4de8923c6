// A thread turns up to four pairs of one token: the angles are worked out once, and all heads use them. VEC == 4: halves of
// the head, for head dimensions divisible by 8 and rows that start on four components.
struct Params {
  x: vec4<u32>,           // strides of batch, token, head, component
  positions: vec4<u32>,   // strides of batch and token, offset
  frequencies: vec4<u32>, // stride, offset
  offset: u32,            // of x
  tokens: u32,
  heads: u32,
  pairs: u32,             // half the head dimension
  groups: u32,            // of four pairs, the last one perhaps smaller
  total: u32,             // batch * tokens * groups
  turn: f32,              // 1, or -1 to turn back
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0v>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;
@group(0) @binding(4) var<storage, read_write> out: array<U0v>;
#import "rope/angle.wgsl"

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = (group.x + group.y * groups.x) * 16u + local;
  if (index >= params.total) { return; }
  let first = index % params.groups * 4u;
  let row = index / params.groups;
  let batch = row / params.tokens;
  let token = row % params.tokens;
  let position = positions[params.positions.z + batch * params.positions.x + token * params.positions.y];
  let step = params.frequencies.x;
  let f = params.frequencies.y + first * step;
  let row_at = params.offset + batch * params.x.x + token * params.x.y;
#if VEC == 4
  let turned = rotation(position, vec4<f32>(frequencies[f], frequencies[f + step], frequencies[f + 2u * step], frequencies[f + 3u * step]));
  let cosine = turned[0];
  let sine = turned[1] * params.turn;
  var source = (row_at + first) / 4u;
  var place = row * params.heads * params.groups * 2u + first / 4u;
  for (var head = 0u; head < params.heads; head++) {
    let a = vec4<f32>(x[source]);
    let b = vec4<f32>(x[source + params.groups]);
    out[place] = vec4<U0>(a * cosine - b * sine);
    out[place + params.groups] = vec4<U0>(b * cosine + a * sine);
    source += u32(i32(params.x.z) / 4); // negative in a flipped view
    place += params.groups * 2u;
  }
#else
  let count = min(4u, params.pairs - first);
  var frequency = vec4<f32>();
  for (var p = 0u; p < count; p++) { frequency[p] = frequencies[f + p * step]; }
  let turned = rotation(position, frequency);
  let cosine = turned[0];
  let sine = turned[1] * params.turn;
  for (var head = 0u; head < params.heads; head++) {
    let from_row = row_at + head * params.x.z;
    let to_row = (row * params.heads + head) * params.pairs * 2u;
    for (var p = 0u; p < count; p++) {
#if INTERLEAVED
      let i = (first + p) * 2u;
      let j = i + 1u;
#else
      let i = first + p;
      let j = i + params.pairs;
#endif
      let a = f32(x[from_row + i * params.x.w]);
      let b = f32(x[from_row + j * params.x.w]);
      out[to_row + i] = U0(a * cosine[p] - b * sine[p]);
      out[to_row + j] = U0(b * cosine[p] + a * sine[p]);
    }
  }
#endif
}
