// Sum of squares of one tensor, spread over `rows` cells from `first` on; each cell belongs to one worker.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32, first: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<GRAD>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

fn work(row: u32, lane: u32) {
  let step = params.rows * LANES;
  var sum = V(0.0);
  // Runs are summed separately first: a long sum keeps more digits.
  for (var i = row * LANES + lane; i < params.cols;) {
    let stop = min(i + 256u * step, params.cols);
    var part = V(0.0);
    for (; i < stop; i += step) {
      let g = V(grad[i]);
      part += g * g;
    }
    sum += part;
  }
  let all = rowSum(total(sum), lane);
  if (row < params.rows && lane == 0u) {
    sums[params.first + row] = all;
  }
}
