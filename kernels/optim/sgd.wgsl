// One step of SGD with momentum: buffer = momentum * buffer + fresh * g, where the first step takes g itself.
#import "optim/hyper.wgsl"
#import "optim/single.wgsl"
@group(0) @binding(1) var<storage, read_write> param: array<P>;
@group(0) @binding(2) var<storage, read> grad: array<G>;
@group(0) @binding(3) var<storage, read_write> buffer: array<P>;
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
  let b = hyper[MOMENTUM] * buffer[i] + hyper[FRESH] * g;
  buffer[i] = b;
#if NESTEROV
  param[i] = p - hyper[LR] * (g + hyper[MOMENTUM] * b);
#else
  param[i] = p - hyper[LR] * b;
#endif
}
