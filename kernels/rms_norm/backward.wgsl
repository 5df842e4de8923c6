// dx of rms_norm, a row at a time: with h = dy * weight and r = 1 / sqrt(mean(x^2) + eps),
// dx = r * h - x * r^3 * mean(h * x). Both sums come from one pass; r is kept for the weight's gradient (STATS).
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
  var squares = F(0.0);
  var products = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    let v = F(x[i]);
    squares += v * v;
    products += F(dy[i]) * F(weight[i - base]) * v;
  }
  let r = inverseSqrt(rowSum(total(squares), lane) / params.width + params.eps);
  let pull = rowSum(total(products), lane) / params.width * r * r * r;
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
    dx[i] = Y(F(dy[i]) * F(weight[i - base]) * r - F(x[i]) * pull);
  }
#if STATS
  if (lane == 0u) {
    stats[row] = vec4<f32>(0.0, 0.0, r, 0.0);
  }
#endif
}
