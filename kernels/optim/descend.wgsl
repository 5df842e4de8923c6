// p = p * (1 - lr * weight_decay) - lr * factor * update, unless the step is skipped. factor depends on the shape alone.
#import "optim/single.wgsl"
@group(0) @binding(1) var<storage, read_write> param: array<V>;
@group(0) @binding(2) var<storage, read> update: array<GRAD>;
@group(0) @binding(3) var<storage, read> hyper: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  if (i >= params.size || scale[0] == 0.0) {
    return;
  }
  let p = param[i];
  param[i] = p - hyper[LR] * (hyper[WEIGHT_DECAY] * p + params.factor * V(update[i]));
}
