// One step of an optimizer on COUNT tensors, in place: the including file defines `update`. Tensor I owns the
// workgroups below ends[I] that tensors before it do not. All STATES of a tensor are in one buffer, one after the
// other, so that a parameter takes three bindings; sizes are in units of V. HALVES: a rounded copy is written too.
#import "include/vec.wgsl"
/// A parameter's element (or four) and what the optimizer remembers of it.
struct Slot {
  param: V,
#unroll S STATES
  state$S: V,
#end
}
struct Params { sizes: array<vec4<u32>, 3>, ends: array<vec4<u32>, 3> }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
#unroll I COUNT
@group(0) @binding(1$I) var<storage, read_write> param$I: array<V>;
@group(0) @binding(3$I) var<storage, read> grad$I: array<GRAD>;
@group(0) @binding(5$I) var<storage, read_write> memory$I: array<V>;
#if HALVES
@group(0) @binding(7$I) var<storage, read_write> half$I: array<HALF>;
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
  // Select in, compute once, select out: otherwise drivers compile the arithmetic once per tensor.
  var old: Slot;
  var g: GRAD;
#unroll I COUNT
  if (which == I) {
    g = grad$I[i];
    old.param = param$I[i];
#unroll S STATES
    old.state$S = memory$I[S * size + i];
#end
  }
#end
  let next = update(old, V(g) * scale[0]);
#unroll I COUNT
  if (which == I) {
    param$I[i] = next.param;
#unroll S STATES
    memory$I[S * size + i] = next.state$S;
#end
#if HALVES
    half$I[i] = HALF(next.param);
#endif
  }
#end
}
