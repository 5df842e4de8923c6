// out[row, j] = how many elements of the sorted row go before values[row, j]; RIGHT: and how many are equal to it.
struct Params { size: u32, n: u32, m: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sorted: array<T0>; // [rows, n]
@group(0) @binding(2) var<storage, read> values: array<T1>; // [rows, m]
@group(0) @binding(3) var<storage, read_write> out: array<i32>; // [rows, m]

#if FLOAT
#import "include/special.wgsl"
// NaN is last.
fn before(a: S, b: S) -> bool { return !is_nan(a) && (is_nan(b) || a < b); }
#else
fn before(a: S, b: S) -> bool { return a < b; }
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  if (i >= params.size) {
    return;
  }
  let value = S(values[i]);
  let start = i / params.m * params.n;
  var low = 0u;
  var high = params.n;
  while (low < high) {
    let middle = low + (high - low) / 2u;
    let element = S(sorted[start + middle]);
#if RIGHT
    let below = !before(value, element);
#else
    let below = before(element, value);
#endif
    if (below) {
      low = middle + 1u;
    } else {
      high = middle;
    }
  }
  out[i] = i32(low);
}
