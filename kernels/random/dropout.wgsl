// y = x / (1 - p) where the uniform number of the element is p or more, else 0. The numbers are those of random/fill.wgsl.
#import "include/philox.wgsl"
struct Params { size: u32, stream: u32, p: f32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> key: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let block = at.x + at.y * groups.x * 64u;
  let u = toUnit(philox(vec2<u32>(key[0], key[1]), vec4<u32>(block, params.stream, key[2], key[3])));
  for (var j = 0u; j < 4u; j++) {
    let i = block * 4u + j;
    if (i < params.size) {
      y[i] = U0(select(0.0, f32(x[i]) * params.scale, u[j] >= params.p));
    }
  }
}
