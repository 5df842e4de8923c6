// Softmax or, with LOG, its logarithm over each row. ONLINE: one pass finds the row's maximum and the sum of exponentials
// together (Milakov & Gimelshein 2018): a larger value rescales what was summed so far. That reads memory once less.
// Otherwise the maximum has a pass of its own and an exponential is computed once, kept in y: for processors whose
// exponentials are dearer than their memory.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0v>;
@group(0) @binding(2) var<storage, read_write> y: array<U0v>;

fn work(row: u32, lane: u32) {
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), arrayLength(&y)));
  var most = V(LOWEST);
  var sum = V(0.0);
  var check = 0.0;
#if ONLINE
  for (var i = base + lane; i < end; i += LANES) {
    let v = V(x[i]);
    let distance = abs(v - most);
    let e = exp(-distance);
    sum = select(sum + e, sum * e + 1.0, v > most);
    most = max(most, v);
    check += total(distance);
  }
  let top = rowMax(peak(most), lane);
  let all = settledSum(rowSum(keepNaN(total(sum * exp(most - top)), check), lane), top);
#else
  for (var i = base + lane; i < end; i += LANES) {
    most = max(most, V(x[i]));
  }
  let top = rowMax(peak(most), lane);
  for (var i = base + lane; i < end; i += LANES) {
    let below = V(x[i]) - top;
    let e = exp(below);
    sum += e;
    check += total(below);
#if !LOG
    y[i] = U0v(e);
#endif
  }
  let all = settledSum(rowSum(keepNaN(total(sum), check), lane), top);
#endif
  if (row >= params.rows) {
    return;
  }
#if LOG
  let shift = log_kept(V(all));
  for (var i = base + lane; i < end; i += LANES) {
    y[i] = U0v((V(x[i]) - top) - shift);
  }
#else
  let scale = 1.0 / all;
  for (var i = base + lane; i < end; i += LANES) {
#if ONLINE
    y[i] = U0v(exp(V(x[i]) - top) * scale);
#else
    y[i] = U0v(V(y[i]) * scale);
#endif
  }
#endif
}
