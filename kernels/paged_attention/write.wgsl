// Puts each token's key and value where its slot says; a negative slot writes nothing.
struct Params {
  width: u32,   // components of a token: KV * D
  total: u32,   // tokens * width
  slots: u32,   // slots of the cache
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> key_cache: array<T0>;
@group(0) @binding(2) var<storage, read_write> value_cache: array<T1>;
@group(0) @binding(3) var<storage, read> key: array<T2>;
@group(0) @binding(4) var<storage, read> value: array<T3>;
@group(0) @binding(5) var<storage, read> slots: array<i32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = (group.x + group.y * groups.x) * 64u + local;
  if (index >= params.total) { return; }
  let slot = slots[index / params.width];
  if (slot < 0 || u32(slot) >= params.slots) { return; }
  let place = u32(slot) * params.width + index % params.width;
  key_cache[place] = T0(key[index]);
  value_cache[place] = T1(value[index]);
}
