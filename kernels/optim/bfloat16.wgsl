// Every value rounded to the nearest bfloat16, ties to even: the upper half of an f32. NaN stays NaN, whatever its bits.
struct Params { size: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  if (i >= params.size) {
    return;
  }
  let bits = bitcast<u32>(x[i]);
  let nan = (bits & 0x7fffffffu) > 0x7f800000u;
  y[i] = bitcast<f32>(select((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u, 0x7fc00000u, nan));
}
