// target = source, or target += source. Four elements at a time only where their number is a multiple of four: the target may
// be a view, and what follows it must stay as it is.
struct Params { size: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> target_: array<T0v>;
@group(0) @binding(2) var<storage, read> source: array<T1v>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 256u;
  if (i >= params.size) { return; }
#if ADD
  target_[i] = T0v(SUM(target_[i]) + SUM(source[i]));
#else
  target_[i] = T0v(source[i]);
#endif
}
