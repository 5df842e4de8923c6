// dx = y * (dy - sum(dy * y)) of softmax; with LOG, dx = dy - exp(y) * sum(dy) of log_softmax.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<T0v>;
@group(0) @binding(2) var<storage, read> y: array<T1v>;
@group(0) @binding(3) var<storage, read_write> dx: array<U0v>;

fn work(row: u32, lane: u32) {
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&dy), min(arrayLength(&y), arrayLength(&dx))));
  var sum = V(0.0);
  for (var i = base + lane; i < end; i += LANES) {
#if LOG
    sum += V(dy[i]);
#else
    sum += V(dy[i]) * V(y[i]);
#endif
  }
  let all = rowSum(total(sum), lane);
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
#if LOG
    dx[i] = U0v(V(dy[i]) - exp_kept(V(y[i])) * all);
#else
    dx[i] = U0v(V(y[i]) * (V(dy[i]) - all));
#endif
  }
}
