// out[token] = weight[id of token]; ids outside the table give NaN.
#import "include/vec.wgsl"
struct Params { tokens: u32, cols: u32, vocabulary: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<T0>;
@group(0) @binding(2) var<storage, read> weight: array<T1v>;
@group(0) @binding(3) var<storage, read_write> y: array<T1v>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  let token = i / params.cols;
  if (token >= params.tokens) {
    return;
  }
  let id = u32(ids[token]);
  let row = min(id, params.vocabulary - 1u);
  let nan = bitcast<f32>(0x7fc00000u | id);
  y[i] = select(T1v(V(nan)), weight[row * params.cols + i % params.cols], id < params.vocabulary);
}
