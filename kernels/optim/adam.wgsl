// One step of Adam (Kingma & Ba 2015); DECOUPLED: AdamW (Loshchilov & Hutter 2019). In place, all in f32.
#import "optim/hyper.wgsl"
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
  var g = P(grad[i]) * scale[0];
  var p = param[i];
#if DECOUPLED
  p -= hyper[LR] * hyper[WEIGHT_DECAY] * p;
#else
  g += hyper[WEIGHT_DECAY] * p;
#endif
  let m = first[i] + (g - first[i]) * hyper[ONE_MINUS_BETA1];
  let v = second[i] * hyper[BETA2] + hyper[ONE_MINUS_BETA2] * g * g;
  first[i] = m;
  second[i] = v;
  param[i] = p - hyper[LR] / hyper[BIAS1] * m / (sqrt(v) / hyper[ROOT_BIAS2] + hyper[EPS]);
}
