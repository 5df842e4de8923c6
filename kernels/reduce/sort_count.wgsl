// An element's place in the sorted row is the number of elements that go before it.
struct Params { size: u32, n: u32, k: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> values: array<U0>;
@group(0) @binding(3) var<storage, read_write> indices: array<i32>;
#import "reduce/sort_keys.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
  let row = i / params.n;
  let own = key_of(i);
  var place = 0u;
  for (var j = row * params.n; j < (row + 1u) * params.n; j++) {
    let other = key_of(j);
    place += u32(before(other, own) || (other == own && j < i));
  }
  if (place < params.k) {
    values[row * params.k + place] = x[i];
    indices[row * params.k + place] = i32(i % params.n);
  }
}
