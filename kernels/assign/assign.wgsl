// target = source, or target += source. Four elements at a time only where their number is a multiple of four: the target may
// be a view, and what follows it must stay as it is.
#if VEC == 4
alias F = vec4<SUM>;
alias T = vec4<T0>;
alias S = vec4<T1>;
#else
alias F = SUM;
alias T = T0;
alias S = T1;
#endif
struct Params { size: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> target_: array<T>;
@group(0) @binding(2) var<storage, read> source: array<S>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 256u;
  if (i >= params.size) { return; }
#if ADD
  target_[i] = T(F(target_[i]) + F(source[i]));
#else
  target_[i] = T(source[i]);
#endif
}
