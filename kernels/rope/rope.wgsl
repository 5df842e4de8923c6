// A thread turns up to four pairs of one token: the angles are worked out once, all heads use them.
struct Params {
  x: vec4<u32>,        // strides of batch, token, head, component
  positions: vec4<u32>, // strides of batch and token, offset
  frequencies: vec4<u32>, // stride, offset
  offset: u32,         // of x
  tokens: u32,
  heads: u32,
  pairs: u32,          // half the head dimension
  groups: u32,         // of four pairs, the last one perhaps smaller
  total: u32,          // batch * tokens * groups
  turn: f32,           // 1, or -1 to turn back
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;
@group(0) @binding(4) var<storage, read_write> out: array<U0>;
#import "rope/angle.wgsl"

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = (group.x + group.y * groups.x) * 16u + local;
  if (index >= params.total) { return; }
  let first = index % params.groups * 4u;
  let row = index / params.groups;
  let batch = row / params.tokens;
  let token = row % params.tokens;
  let count = min(4u, params.pairs - first);
  let position = positions[params.positions.z + batch * params.positions.x + token * params.positions.y];
  var frequency = vec4<f32>();
  for (var p = 0u; p < count; p++) { frequency[p] = frequencies[params.frequencies.y + (first + p) * params.frequencies.x]; }
  let turned = rotation(position, frequency);
  let cosine = turned[0];
  let sine = turned[1] * params.turn;
  for (var head = 0u; head < params.heads; head++) {
    let from_row = params.offset + batch * params.x.x + token * params.x.y + head * params.x.z;
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
}
