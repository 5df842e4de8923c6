// dx = y * (dy - sum(dy * y)) of softmax; with LOG, dx = dy - exp(y) * sum(dy) of log_softmax.
#import "include/row.wgsl"
struct Params { rows: u32, cols: u32 }
#if VEC == 4
alias D = vec4<T0>;
alias Y = vec4<T1>;
alias X = vec4<U0>;
#else
alias D = T0;
alias Y = T1;
alias X = U0;
#endif
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<D>;
@group(0) @binding(2) var<storage, read> y: array<Y>;
@group(0) @binding(3) var<storage, read_write> dx: array<X>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&dy), min(arrayLength(&y), arrayLength(&dx))));
  var sum = F(0.0);
  for (var i = base + lane; i < end; i += LANES) {
#if LOG
    sum += F(dy[i]);
#else
    sum += F(dy[i]) * F(y[i]);
#endif
  }
  let all = rowSum(total(sum), lane);
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
#if LOG
    dx[i] = X(F(dy[i]) - exp_kept(F(y[i])) * all);
#else
    dx[i] = X(F(y[i]) * (F(dy[i]) - all));
#endif
  }
}
