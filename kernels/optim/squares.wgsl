// Sum of squares of one tensor, spread over `rows` cells from `first` on; each cell belongs to one worker.
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32, first: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<GRAD>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let step = params.rows * LANES;
  var sum = F(0.0);
  // In runs that are summed by themselves first: a long sum keeps more digits.
  for (var i = row * LANES + lane; i < params.cols;) {
    let stop = min(i + 256u * step, params.cols);
    var part = F(0.0);
    for (; i < stop; i += step) {
      let g = F(grad[i]);
      part += g * g;
    }
    sum += part;
  }
  let all = rowSum(total(sum), lane);
  if (row < params.rows && lane == 0u) {
    sums[params.first + row] = all;
  }
}
