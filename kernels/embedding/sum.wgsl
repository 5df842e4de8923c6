// dweight[id] = sum of dy over the tokens with this id, in token order; all NaN where a token has an id outside the table.
#import "include/vec.wgsl"
struct Params { tokens: u32, vocabulary: u32, cols: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<T0v>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read_write> dweight: array<U0v>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  let id = i / params.cols;
  if (id >= params.vocabulary) {
    return;
  }
  let column = i % params.cols;
  let end = starts[id + 1u];
  var sum = V(0.0);
  var position = starts[id];
#if TOGETHER
  // The order of the sum is fixed; but a GPU waits for the loads, so several are issued together.
  for (; position + TOGETHER <= end; position += TOGETHER) {
#unroll K TOGETHER
    let term$K = V(dy[order[position + K] * params.cols + column]);
#end
#unroll K TOGETHER
    sum += term$K;
#end
  }
#endif
  for (; position < end; position++) {
    sum += V(dy[order[position] * params.cols + column]);
  }
  let outside = starts[params.vocabulary] < params.tokens;
  dweight[i] = U0v(select(sum, V(bitcast<f32>(0x7fc00000u | id)), outside));
}
