// Sets every element to one value.
struct Params { size: u32, float_value: f32, int_value: i32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<U0>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 256u;
  if (i >= params.size) { return; }
#if FLOAT
  out[i] = U0(params.float_value);
#else
  out[i] = U0(params.int_value);
#endif
}
