// starts[id]: the first position in the sorted order whose token has this id or a larger one.
struct Params { tokens: u32, vocabulary: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<T1>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> starts: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let id = at.x + at.y * groups.x * 64u;
  if (id > params.vocabulary) {
    return;
  }
  var low = 0u;
  var high = params.tokens;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (min(u32(ids[order[middle]]), params.vocabulary) < id) {
      low = middle + 1u;
    } else {
      high = middle;
    }
  }
  starts[id] = low;
}
