// Counts become first positions: an exclusive prefix sum over [256 digits, blocks], one digit a thread.
struct Params { blocks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;

var<workgroup> totals: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) digit: u32) {
  let first = digit * params.blocks;
  var sum = 0u;
  for (var i = 0u; i < params.blocks; i++) {
    sum += counts[first + i];
  }
  totals[digit] = sum;
  workgroupBarrier();
  var position = 0u;
  for (var i = 0u; i < digit; i++) {
    position += totals[i];
  }
  for (var i = 0u; i < params.blocks; i++) {
    let count = counts[first + i];
    counts[first + i] = position;
    position += count;
  }
}
