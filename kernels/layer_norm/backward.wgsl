// dx of layer_norm, a row at a time: with h = dy * weight, r = 1 / sqrt(var + eps) and n = (x - mean) * r,
// dx = r * (h - mean(h) - n * mean(h * n)). The mean has two parts, as in forward.wgsl; both and r are kept for the
// gradients of weight and bias (STATS).
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32, width: f32, eps: f32 }
#if VEC == 4
alias D = vec4<T0>;
alias X = vec4<T1>;
alias W = vec4<T2>;
alias Y = vec4<U0>;
#else
alias D = T0;
alias X = T1;
alias W = T2;
alias Y = U0;
#endif
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<D>;
@group(0) @binding(2) var<storage, read> x: array<X>;
@group(0) @binding(3) var<storage, read> weight: array<W>;
@group(0) @binding(4) var<storage, read_write> dx: array<Y>;
#if STATS
@group(0) @binding(5) var<storage, read_write> stats: array<vec4<f32>>;
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), min(arrayLength(&dy), arrayLength(&dx))));
  var sum = F(0.0);
  var slope = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    sum += F(x[i]);
    slope += F(dy[i]) * F(weight[i - base]);
  }
  let mean = rowSum(total(sum), lane) / params.width;
  let meanSlope = rowSum(total(slope), lane) / params.width;
  var rest = F(0.0);
  var squares = F(0.0);
  var products = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    let d = F(x[i]) - mean;
    rest += d;
    squares += d * d;
    products += F(dy[i]) * F(weight[i - base]) * d;
  }
  let left = rowSum(total(rest), lane) / params.width;
  let variance = abs(rowSum(total(squares), lane) / params.width - left * left); // max(_, 0.0) would lose NaN
  let r = inverseSqrt(variance + params.eps);
  // What is left is next to nothing: beside an infinite slope it would only make NaN.
  let finite = (bitcast<u32>(meanSlope) & 0x7fffffffu) < 0x7f800000u;
  let pull = (rowSum(total(products), lane) / params.width - select(0.0, left * meanSlope, finite)) * r * r;
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
    let h = F(dy[i]) * F(weight[i - base]);
    dx[i] = Y(r * (h - meanSlope - (F(x[i]) - mean - left) * pull));
  }
#if STATS
  if (lane == 0u) {
    stats[row] = vec4<f32>(mean, left, r, 0.0);
  }
#endif
}
