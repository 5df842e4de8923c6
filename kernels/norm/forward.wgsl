// y = x / sqrt(mean(x^2) + eps) * weight per row. CENTRED: y = (x - mean) / sqrt(var + eps) * weight + bias. Far from
// zero the mean is rounded, so what is left of it in x - mean is summed too and subtracted (the corrected two-pass
// algorithm of Chan, Golub & LeVeque 1983).
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0v>;
@group(0) @binding(2) var<storage, read> weight: array<T1v>;
#if CENTRED
@group(0) @binding(3) var<storage, read> bias: array<T2v>;
#endif
@group(0) @binding(4) var<storage, read_write> y: array<U0v>;

fn work(row: u32, lane: u32) {
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), arrayLength(&y)));
#if CENTRED
  var sum = V(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    sum += V(x[i]);
  }
  let mean = rowSum(total(sum), lane) / params.width;
  var rest = V(0.0);
#endif
  var squares = V(0.0);
  for (var i = base + lane; i < end; i += LANES) {
#if CENTRED
    let d = V(x[i]) - mean;
    rest += d;
#else
    let d = V(x[i]);
#endif
    squares += d * d;
  }
#if CENTRED
  let left = rowSum(total(rest), lane) / params.width;
  let variance = abs(rowSum(total(squares), lane) / params.width - left * left); // max(_, 0.0) would lose NaN
#else
  let variance = rowSum(total(squares), lane) / params.width;
#endif
  let scale = inverseSqrt(variance + params.eps);
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
#if CENTRED
    y[i] = U0v((V(x[i]) - mean - left) * scale * V(weight[i - base]) + V(bias[i - base]));
#else
    y[i] = U0v(V(x[i]) * scale * V(weight[i - base]));
#endif
  }
}
