// First half of a norm's weight (and, with BIAS, bias) gradient: each thread sums dy * (x - mean) * r of its column
// over one block of rows. Blocks depend on the shape alone, so the order of summation is always the same.
#import "include/vec.wgsl"
struct Params { rows: u32, cols: u32, block: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<T0v>;
@group(0) @binding(2) var<storage, read> x: array<T1v>;
@group(0) @binding(3) var<storage, read> stats: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sums: array<V>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let at = id.x + id.y * groups.x * 64u;
  let column = at % params.cols;
  let number = at / params.cols;
  if (number >= params.blocks) {
    return;
  }
  let end = min((number + 1u) * params.block, params.rows);
  var weight = V(0.0);
  var bias = V(0.0);
  for (var row = number * params.block; row < end; row++) {
    let here = row * params.cols + column;
    let d = V(dy[here]);
    let s = stats[row];
    weight += d * ((V(x[here]) - s.x - s.y) * s.z);
#if BIAS
    bias += d;
#endif
  }
  sums[number * params.cols + column] = weight;
#if BIAS
  sums[(params.blocks + number) * params.cols + column] = bias;
#endif
}
