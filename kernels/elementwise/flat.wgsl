// out[i] = formula(in0[i], in1[i], …), where every input is read in order or is one repeated element.
// V is a vec4 of the compute type S. lower.ts writes the statements before the loop (start0, the first index of in0, and
// so on; the scalars) and in it (the loads at i, and the formula, which defines y).
struct Params {
  chunks: u32,
  scalars: array<vec4<S>, 2>,
  starts: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<uniform> params: Params;
#import "elementwise/inputs.wgsl"
#if FLOAT
#import "elementwise/functions.wgsl"
#if FURTHER
#import "elementwise/further.wgsl"
#endif
#else
#import "elementwise/integers.wgsl"
#endif

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  SETUP
  for (var i = id.x; i < chunks; i += groups.x * u32(WG)) {
    BODY
    out[i] = STORED;
  }
}
