// One step of Adam on COUNT tensors, in place. Workgroups are dealt to the tensors one after the other: tensor I has
// those below ends[I]. Both moments of a tensor lie in one, the second behind the first, so that a parameter takes
// three bindings; sizes are in units of P. HALVES: a rounded copy of every parameter is written too.
#import "optim/hyper.wgsl"
#import "optim/adam_step.wgsl"
#if HALVES
#if VEC == 4
alias H = vec4<HALF>;
#else
alias H = HALF;
#endif
#endif
struct Params { sizes: array<vec4<u32>, 3>, ends: array<vec4<u32>, 3> }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
#unroll I COUNT
@group(0) @binding(1$I) var<storage, read_write> param$I: array<P>;
@group(0) @binding(3$I) var<storage, read> grad$I: array<G>;
@group(0) @binding(5$I) var<storage, read_write> moments$I: array<P>;
#if HALVES
@group(0) @binding(7$I) var<storage, read_write> half$I: array<H>;
#endif
#end

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  if (scale[0] == 0.0) {
    return;
  }
  let group = id.x + id.y * groups.x;
  var which = 0u;
  var start = 0u;
  while (which < COUNT && group >= params.ends[which / 4u][which % 4u]) {
    start = params.ends[which / 4u][which % 4u];
    which++;
  }
  let size = params.sizes[which / 4u][which % 4u];
  let i = (group - start) * 256u + lane;
  if (which == COUNT || i >= size) {
    return;
  }
  // The arithmetic stands between two selections, once: drivers compile every copy of it.
  var was: Moved;
  var g: G;
#unroll I COUNT
  if (which == I) {
    was = Moved(param$I[i], moments$I[i], moments$I[size + i]);
    g = grad$I[i];
  }
#end
  let next = adam(was.param, P(g), was.first, was.second);
#unroll I COUNT
  if (which == I) {
    param$I[i] = next.param;
    moments$I[i] = next.first;
    moments$I[size + i] = next.second;
#if HALVES
    half$I[i] = H(next.param);
#endif
  }
#end
}
