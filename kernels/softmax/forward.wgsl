// Softmax or, with LOG, its logarithm over each row. One pass finds the row's maximum and the sum of exponentials
// together (Milakov & Gimelshein 2018): a larger value rescales what was summed so far, with one exp an element.
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32 }
#if VEC == 4
alias X = vec4<T0>;
alias Y = vec4<U0>;
#else
alias X = T0;
alias Y = U0;
#endif
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read_write> y: array<Y>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let base = min(row, params.rows - 1u) * params.cols;
  let cols = colsOf(row, params.rows, params.cols);
  var most = F(LOWEST);
  var sum = F(0.0);
  for (var i = lane; i < cols; i += LANES) {
    let v = F(x[base + i]);
    let e = exp(-abs(v - most));
    sum = select(sum + e, sum * e + 1.0, v > most);
    most = max(most, v);
  }
  let top = rowMax(peak(most), lane);
  let all = rowSum(total(sum * exp(most - top)), lane);
  if (row >= params.rows) {
    return;
  }
#if LOG
  let shift = log(all);
  for (var i = lane; i < cols; i += LANES) {
    y[base + i] = Y((F(x[base + i]) - top) - shift);
  }
#else
  // A row of nothing but -inf (everything masked) has no distribution: zeros.
  let scale = select(1.0 / all, 0.0, all == 0.0);
  for (var i = lane; i < cols; i += LANES) {
    y[base + i] = Y(exp(F(x[base + i]) - top) * scale);
  }
#endif
}
