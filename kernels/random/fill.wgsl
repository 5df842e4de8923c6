// Random numbers, four per thread: element 4 n + j is word j of philox(key, (n, stream, step)).
// NORMAL: standard normal numbers by Box and Muller (1958), two from two words.
#import "include/philox.wgsl"
#if NORMAL
#import "elementwise/functions.wgsl"
#endif
struct Params { size: u32, stream: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> key: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<U0>;

#if NORMAL
fn polar(a: f32, b: f32) -> vec2<f32> {
  // 1 - a is in (0, 1]: its logarithm is finite.
  let angle = 6.283185307179586 * b;
  return sqrt(-2.0 * log_near(1.0 - a)) * vec2<f32>(cos_reduced(angle), sin_reduced(angle));
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let block = at.x + at.y * groups.x * 64u;
  let u = toUnit(philox(vec2<u32>(key[0], key[1]), vec4<u32>(block, params.stream, key[2], key[3])));
#if NORMAL
  let four = vec4<f32>(polar(u.x, u.y), polar(u.z, u.w));
#else
  let four = u;
#endif
  for (var j = 0u; j < 4u; j++) {
    if (block * 4u + j < params.size) {
      y[block * 4u + j] = U0(four[j]);
    }
  }
}
