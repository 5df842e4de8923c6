// Muon's momentum: buffer moves towards the gradient; the update is the buffer or, with NESTEROV, the gradient moved
// towards the buffer.
#import "optim/single.wgsl"
@group(0) @binding(1) var<storage, read_write> buffer: array<V>;
@group(0) @binding(2) var<storage, read> grad: array<GRAD>;
@group(0) @binding(3) var<storage, read> hyper: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;
@group(0) @binding(5) var<storage, read_write> update: array<V>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 256u;
  if (i >= params.size) {
    return;
  }
  if (scale[0] == 0.0) {
    update[i] = V(0.0);
    return;
  }
  let g = V(grad[i]) * scale[0];
  let b = buffer[i] + (g - buffer[i]) * (1.0 - hyper[MOMENTUM]);
  buffer[i] = b;
#if NESTEROV
  update[i] = g + (b - g) * hyper[MOMENTUM];
#else
  update[i] = b;
#endif
}
