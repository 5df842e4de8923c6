// Batcher's bitonic network over indices in rows padded to a power of two; each stage is a dispatch of this file.
struct Params { rows: u32, n: u32, width: u32, k: u32, run: u32, distance: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> order: array<u32>;
#if STORE
@group(0) @binding(3) var<storage, read_write> values: array<U0>;
@group(0) @binding(4) var<storage, read_write> indices: array<i32>;
#endif
#import "reduce/sort_keys.wgsl"

// Whether element `a` of a row goes before element `b`; padding (from n on) goes last.
fn goes_first(row: u32, a: u32, b: u32) -> bool {
  if (a >= params.n || b >= params.n) { return a < b; }
  let key_a = key_of(row * params.n + a);
  let key_b = key_of(row * params.n + b);
  return before(key_a, key_b) || (key_a == key_b && a < b);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
#if LOAD
  if (i < params.rows * params.width) { order[i] = i % params.width; }
#endif
#if EXCHANGE
  if (i >= params.rows * params.width / 2u) { return; }
  let half = params.width / 2u;
  let row = i / half;
  let pair = i % half;
  let low = pair / params.distance * params.distance * 2u + pair % params.distance;
  let at = row * params.width + low;
  let a = order[at];
  let b = order[at + params.distance];
  let ascending = (low & params.run) == 0u;
  if (goes_first(row, b, a) == ascending) {
    order[at] = b;
    order[at + params.distance] = a;
  }
#endif
#if STORE
  if (i >= params.rows * params.k) { return; }
  let row = i / params.k;
  let index = order[row * params.width + i % params.k];
  values[i] = x[row * params.n + index];
  indices[i] = i32(index);
#endif
}
