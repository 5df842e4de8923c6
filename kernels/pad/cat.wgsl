// Copies the rows of one input into the rows of the result, from `start` on. Lengths are in units of TYPE: one or four elements.
struct Params { size: u32, width: u32, row: u32, start: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<TYPE>;
@group(0) @binding(2) var<storage, read_write> out: array<TYPE>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
  out[i / params.width * params.row + params.start + i % params.width] = x[i];
}
