// out[i] = formula(inputs at the strided places that belong to i). Axes come innermost first; the innermost one
// counts vec4s where V is wide (then an input of stride 0 there is a single element, repeated).
struct Params {
  chunks: u32,
  rank: u32,
  scalars: array<vec4<S>, 2>,
  starts: array<vec4<i32>, 2>,
  shape: array<vec4<u32>, 2>,
  strides: array<vec4<i32>, AXES>, // two vec4 an input
}
@group(0) @binding(0) var<uniform> params: Params;
#import "elementwise/inputs.wgsl"
#if FLOAT
#import "elementwise/functions.wgsl"
#endif

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < params.chunks; i += groups.x * u32(WG)) {
    var at: array<i32, ARITY>;
#unroll K ARITY
    at[K] = params.starts[K / 4][K % 4];
#end
    var rest = i;
    for (var axis = 0u; axis + 1u < params.rank; axis++) {
      let extent = params.shape[axis / 4u][axis % 4u];
      let place = i32(rest % extent);
      rest /= extent;
#unroll K ARITY
      at[K] += place * params.strides[2u * K + axis / 4u][axis % 4u];
#end
    }
#unroll K ARITY
    at[K] += i32(rest) * params.strides[2u * K + (params.rank - 1u) / 4u][(params.rank - 1u) % 4u];
#end
    BODY
    out[i] = OUT(y);
  }
}
