// Second half of a norm's weight and bias gradients: the blocks' sums, added in order.
#import "include/vec.wgsl"
struct Params { cols: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<V>;
@group(0) @binding(2) var<storage, read_write> dweight: array<U1v>;
#if BIAS
@group(0) @binding(3) var<storage, read_write> dbias: array<U2v>;
#endif

fn columnSum(first: u32, column: u32) -> V {
  var sum = V(0.0);
  for (var i = 0u; i < params.blocks; i++) {
    sum += sums[(first + i) * params.cols + column];
  }
  return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = id.x + id.y * groups.x * 64u;
  if (column >= params.cols) {
    return;
  }
  dweight[column] = U1v(columnSum(0u, column));
#if BIAS
  dbias[column] = U2v(columnSum(params.blocks, column));
#endif
}
