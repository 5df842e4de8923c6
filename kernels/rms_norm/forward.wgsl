// y = x / sqrt(mean(x^2) + eps) * weight, a row at a time.
// ADD: the row is x + residual, which is stored as `sum` for the residual stream.
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32, width: f32, eps: f32 }
#if VEC == 4
alias X = vec4<T0>;
alias W = vec4<T1>;
alias Y = vec4<U0>;
#else
alias X = T0;
alias W = T1;
alias Y = U0;
#endif
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read> weight: array<W>;
#if ADD
@group(0) @binding(3) var<storage, read> residual: array<X>;
#endif
@group(0) @binding(4) var<storage, read_write> y: array<Y>;
#if ADD
@group(0) @binding(5) var<storage, read_write> sum: array<X>;
#endif

fn element(i: u32) -> F {
#if ADD
  // What the stream stores is what is normalised, also where storing rounds to f16.
  return F(X(F(x[i]) + F(residual[i])));
#else
  return F(x[i]);
#endif
}

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
  var squares = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    let v = element(i);
    squares += v * v;
  }
  let scale = inverseSqrt(rowSum(total(squares), lane) / params.width + params.eps);
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
    let v = element(i);
    y[i] = Y(v * scale * F(weight[i - base]));
#if ADD
    sum[i] = X(v);
#endif
  }
}
