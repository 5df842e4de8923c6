// How often each digit occurs in each block, one thread per block: the least total work, for few threads.
#import "embedding/digit.wgsl"
@group(0) @binding(3) var<storage, read_write> counts: array<u32>; // [256 digits, blocks]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  let block = at.x;
  if (block >= params.blocks) {
    return;
  }
  for (var digit = 0u; digit < 256u; digit++) {
    counts[digit * params.blocks + block] = 0u;
  }
  let end = min((block + 1u) * params.block, params.tokens);
  for (var i = block * params.block; i < end; i++) {
    counts[digitOf(tokenAt(i)) * params.blocks + block]++;
  }
}
