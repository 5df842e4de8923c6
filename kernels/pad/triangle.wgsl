// Keeps the elements whose column - row - diagonal has the given sign or is 0.
struct Params { size: u32, rows: u32, columns: u32, diagonal: i32, sign: i32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> out: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
  let above = i32(i % params.columns) - i32(i / params.columns % params.rows) - params.diagonal;
  out[i] = select(U0(0), x[i], above * params.sign >= 0);
}
