// Tokens of a step, of which a negative one, -1 - r, stands for the id that row r of the step before sampled.
struct Params { size: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<i32>;
@group(0) @binding(2) var<storage, read> ids: array<i32>;
@group(0) @binding(3) var<storage, read_write> fed: array<i32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  let i = at.x;
  if (i < params.size) {
    let token = tokens[i];
    // A row without a distribution has no id; what follows it is dropped.
    fed[i] = select(token, max(ids[u32(max(-1 - token, 0))], 0), token < 0);
  }
}
