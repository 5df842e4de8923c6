// Each block puts its tokens where their digits belong, in order.
#import "embedding/digit.wgsl"
@group(0) @binding(3) var<storage, read_write> positions: array<u32>;
@group(0) @binding(4) var<storage, read_write> sorted: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  let block = at.x;
  if (block >= params.blocks) {
    return;
  }
  let end = min((block + 1u) * params.block, params.tokens);
  for (var i = block * params.block; i < end; i++) {
    let token = tokenAt(i);
    let slot = digitOf(token) * params.blocks + block;
    sorted[positions[slot]] = token;
    positions[slot]++;
  }
}
