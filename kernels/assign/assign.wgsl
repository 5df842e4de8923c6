// target = source, or target += source, four elements a thread. The last vec4 may reach into the padding.
struct Params { size: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<T0>>;
@group(0) @binding(2) var<storage, read> source: array<vec4<T1>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 256u;
  if (i * 4u >= params.size) { return; }
#if ADD
  target_[i] = vec4<T0>(vec4<f32>(target_[i]) + vec4<f32>(source[i]));
#else
  target_[i] = vec4<T0>(source[i]);
#endif
}
