// One thread a unit of one row, element by element: any extents.
#import "fused_linear/layout.wgsl"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
  let unit = locate(group.x + group.y * groups.x, thread);
  if (unit.row >= params.rows) { return; }
  let from_x = row_start(unit.row);
  #if NORM
  let s = statistics(from_x, thread);
  #else
  let s = vec3f();
  #endif
  var a = 0.0;
  var b = 0.0;
  for (var k = 0u; k < params.cells; k++) {
    let v = normal(f32(x[from_x + k]), s, affine(k));
    #if IN_OUT
    let at = vec2u(unit.a, min(unit.b, params.stride - 1u)) + k * params.stride;
    #else
    let at = vec2u(unit.a, min(unit.b, params.stride - 1u)) * params.cells + k;
    #endif
    #unroll P PARTS
    if (unit.part == P) {
      a = fma(v, f32(w$P[at.x]), a);
      b = fma(v, f32(second$P[at.y]), b);
    }
    #end
  }
  if (unit.inside) { finish(unit.row, unit, a, b); }
}
