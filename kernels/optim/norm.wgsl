// The square root of all cells' sum, and the factor that clips to `most`; one worker.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32, most: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> factor: array<f32>;
@group(0) @binding(2) var<storage, read> sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> norm: array<f32>;
@group(0) @binding(4) var<storage, read_write> scale: array<f32>;

fn work(row: u32, lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < params.cols;) {
    let stop = min(i + 64u * LANES, params.cols);
    var part = 0.0;
    for (; i < stop; i += LANES) {
      part += sums[i];
    }
    sum += part;
  }
  let all = rowSum(sum, lane);
  if (row >= params.rows || lane > 0u) {
    return;
  }
  let length = sqrt(all) * abs(factor[0]);
  norm[0] = length;
#if CLIP
  let clipped = factor[0] * min(1.0, params.most / (length + 1e-6));
#else
  let clipped = factor[0];
#endif
  // Optimizers skip a step whose scale is 0. By bits, because a compiler may assume that NaN and infinity do not occur.
  let finite = bitcast<u32>(length) < bitcast<u32>(3.0e38);
  scale[0] = select(0.0, clipped, finite);
}
