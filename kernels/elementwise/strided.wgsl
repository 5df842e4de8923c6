// out[i] = formula(inputs at the strided places that belong to i). Axes come innermost first; the innermost one
// counts vec4s where V is wide (then an input of stride 0 there is a single element, repeated). lower.ts writes
// the statements before the loop (starts, extents, strides, scalars) and in it: coordinates of i by division, the
// place of each input, the loads, and the formula, which defines y.
struct Params {
  chunks: u32,
  scalars: array<vec4<S>, 2>,
  starts: array<vec4<i32>, 2>,
  shape: array<vec4<u32>, QUADS>,
  strides: array<vec4<i32>, AXES>, // QUADS an input
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
