// A thread puts one token behind all with smaller digits, those with its digit in earlier blocks and those earlier in
// its block. A workgroup adds up the counts that it needs itself: no kernel in between has too little to do for a GPU.
#import "embedding/digit.wgsl"
@group(0) @binding(3) var<storage, read> counts: array<u32>; // [blocks, 256 digits]
@group(0) @binding(4) var<storage, read_write> sorted: array<u32>;

var<workgroup> digits: array<u32, 256>;
/// Of each digit: tokens that have it, and those of them in earlier blocks.
var<workgroup> totals: array<u32, 256>;
var<workgroup> earlier: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let own = group.x + group.y * groups.x;
  let position = own * params.block + local;
  let filled = position < params.tokens;
  var token = 0u;
  var digit = 0u;
  if (filled) {
    token = tokenAt(position);
    digit = digitOf(token);
  }
  digits[local] = digit;
  var total = 0u;
  for (var block = 0u; block < params.blocks; block++) {
    if (block == own) {
      earlier[local] = total;
    }
    total += counts[block * params.block + local];
  }
  totals[local] = total;
  workgroupBarrier();
  if (!filled) {
    return;
  }
  var slot = earlier[digit];
  for (var smaller = 0u; smaller < digit; smaller++) {
    slot += totals[smaller];
  }
  for (var i = 0u; i < local; i++) {
    slot += u32(digits[i] == digit);
  }
  sorted[slot] = token;
}
