// One step of Adam on one tensor, in place.
#import "optim/hyper.wgsl"
#import "optim/single.wgsl"
#import "optim/adam_step.wgsl"
@group(0) @binding(1) var<storage, read_write> param: array<P>;
@group(0) @binding(2) var<storage, read> grad: array<G>;
@group(0) @binding(3) var<storage, read_write> first: array<P>;
@group(0) @binding(4) var<storage, read_write> second: array<P>;
@group(0) @binding(5) var<storage, read> hyper: array<f32>;
@group(0) @binding(6) var<storage, read> scale: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  if (i >= params.size || scale[0] == 0.0) {
    return;
  }
  let next = adam(param[i], P(grad[i]), first[i], second[i]);
  param[i] = next.param;
  first[i] = next.first;
  second[i] = next.second;
}
