// Normalises the rows of x, one subgroup per row, for a product of many rows: its workgroups would each repeat it. The same
// functions on the same lanes give the same bits here and there.
struct Params {
  rows: u32,
  cells: u32,
  width: f32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<CX>;
@group(0) @binding(40) var<storage, read_write> out: array<V>;
#import "fused_linear/norm.wgsl"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row = (group.x + group.y * groups.x) * (THREADS / SG) + thread / SG;
  let at = min(row, params.rows - 1u) * params.cells;
  let of_row = statistics(at, thread);
  if (row >= params.rows) { return; }
  for (var k = thread % SG; k < params.cells; k += SG) { out[at + k] = normal(V(x[at + k]), of_row, affine(k)); }
}
