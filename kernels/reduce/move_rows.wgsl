// out[r, index[r, j]] = x[r, j] (CLEAR, then SCATTER; no index occurs twice in a row), or the way back (GATHER).
struct Params { size: u32, k: u32, width: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read_write> out: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
#if CLEAR
  out[i] = U0(0);
#endif
#if SCATTER
  out[i / params.k * params.width + u32(index[i])] = x[i];
#endif
#if GATHER
  out[i] = x[i / params.k * params.width + u32(index[i])];
#endif
}
