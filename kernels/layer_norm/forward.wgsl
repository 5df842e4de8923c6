// y = (x - mean) / sqrt(var + eps) * weight + bias, a row at a time. Far from zero the mean is rounded, so what is left
// of it in x - mean is summed too and taken out (the corrected two passes of Chan, Golub & LeVeque 1983).
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32, width: f32, eps: f32 }
#if VEC == 4
alias X = vec4<T0>;
alias W = vec4<T1>;
alias B = vec4<T2>;
alias Y = vec4<U0>;
#else
alias X = T0;
alias W = T1;
alias B = T2;
alias Y = U0;
#endif
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read> weight: array<W>;
@group(0) @binding(3) var<storage, read> bias: array<B>;
@group(0) @binding(4) var<storage, read_write> y: array<Y>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), arrayLength(&y)));
  var sum = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    sum += F(x[i]);
  }
  let mean = rowSum(total(sum), lane) / params.width;
  var rest = F(0.0);
  var squares = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    let d = F(x[i]) - mean;
    rest += d;
    squares += d * d;
  }
  let left = rowSum(total(rest), lane) / params.width;
  let variance = abs(rowSum(total(squares), lane) / params.width - left * left); // max(_, 0.0) would lose NaN
  let scale = inverseSqrt(variance + params.eps);
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
    y[i] = Y((F(x[i]) - mean - left) * scale * F(weight[i - base]) + F(bias[i - base]));
  }
}
