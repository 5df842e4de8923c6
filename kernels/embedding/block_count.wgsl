// How often each digit occurs in each block: one workgroup per block of 256 positions, one thread per digit.
#import "embedding/digit.wgsl"
@group(0) @binding(3) var<storage, read_write> counts: array<u32>; // [blocks, 256 digits]

var<workgroup> digits: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let first = (group.x + group.y * groups.x) * params.block;
  if (first >= params.tokens) {
    return;
  }
  let filled = min(params.block, params.tokens - first);
  if (local < filled) {
    digits[local] = digitOf(tokenAt(first + local));
  }
  workgroupBarrier();
  var count = 0u;
  for (var i = 0u; i < filled; i++) {
    count += u32(digits[i] == local);
  }
  counts[first + local] = count;
}
