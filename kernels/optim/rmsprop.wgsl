// One step of RMSprop (Hinton 2012): v = beta2 * v + (1 - beta2) * g^2, p -= lr * g / (sqrt(v) + eps).
// With factors 1 and 1 it is Adagrad (Duchi et al. 2011).
#import "optim/hyper.wgsl"
#import "optim/single.wgsl"
@group(0) @binding(1) var<storage, read_write> param: array<P>;
@group(0) @binding(2) var<storage, read> grad: array<G>;
@group(0) @binding(3) var<storage, read_write> second: array<P>;
@group(0) @binding(4) var<storage, read> hyper: array<f32>;
@group(0) @binding(5) var<storage, read> scale: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  if (i >= params.size || scale[0] == 0.0) {
    return;
  }
  let p = param[i];
  let g = P(grad[i]) * scale[0] + hyper[WEIGHT_DECAY] * p;
  let v = hyper[BETA2] * second[i] + hyper[ONE_MINUS_BETA2] * g * g;
  second[i] = v;
  param[i] = p - hyper[LR] * g / (sqrt(v) + hyper[EPS]);
}
