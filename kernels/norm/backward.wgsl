// dx of a norm per row. With h = dy * weight and r = 1 / sqrt(mean(x^2) + eps): dx = r * h - x * r^3 * mean(h * x).
// CENTRED: with r = 1 / sqrt(var + eps) and n = (x - mean) * r, dx = r * (h - mean(h) - n * mean(h * n)); the mean has
// two parts, as in forward.wgsl. STATS: the mean's parts and r are kept for the gradients of weight and bias.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<T0v>;
@group(0) @binding(2) var<storage, read> x: array<T1v>;
@group(0) @binding(3) var<storage, read> weight: array<T2v>;
@group(0) @binding(4) var<storage, read_write> dx: array<U0v>;
#if STATS
@group(0) @binding(5) var<storage, read_write> stats: array<vec4<f32>>;
#endif

fn work(row: u32, lane: u32) {
  let base = min(row, params.rows - 1u) * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), min(arrayLength(&dy), arrayLength(&dx))));
#if CENTRED
  var sum = V(0.0);
  var slope = V(0.0);
  for (var i = base + lane; i < end; i += LANES) {
    sum += V(x[i]);
    slope += V(dy[i]) * V(weight[i - base]);
  }
  let mean = rowSum(total(sum), lane) / params.width;
  let meanSlope = rowSum(total(slope), lane) / params.width;
  var rest = V(0.0);
#endif
  var squares = V(0.0);
  var products = V(0.0);
  for (var i = base + lane; i < end; i += LANES) {
#if CENTRED
    let d = V(x[i]) - mean;
    rest += d;
#else
    let d = V(x[i]);
#endif
    squares += d * d;
    products += V(dy[i]) * V(weight[i - base]) * d;
  }
#if CENTRED
  let left = rowSum(total(rest), lane) / params.width;
  let variance = abs(rowSum(total(squares), lane) / params.width - left * left); // max(_, 0.0) would lose NaN
  let r = inverseSqrt(variance + params.eps);
  // `left` is tiny: times an infinite slope it would only make NaN.
  let finite = (bitcast<u32>(meanSlope) & 0x7fffffffu) < 0x7f800000u;
  let coefficient = (rowSum(total(products), lane) / params.width - select(0.0, left * meanSlope, finite)) * r * r;
#else
  let r = inverseSqrt(rowSum(total(squares), lane) / params.width + params.eps);
  let coefficient = rowSum(total(products), lane) / params.width * r * r * r;
#endif
  if (row >= params.rows) {
    return;
  }
  for (var i = base + lane; i < end; i += LANES) {
    let h = V(dy[i]) * V(weight[i - base]);
#if CENTRED
    dx[i] = U0v(r * (h - meanSlope - (V(x[i]) - mean - left) * coefficient));
#else
    dx[i] = U0v(h * r - V(x[i]) * coefficient);
#endif
  }
#if STATS
  if (lane == 0u) {
#if CENTRED
    stats[row] = vec4<f32>(mean, left, r, 0.0);
#else
    stats[row] = vec4<f32>(0.0, 0.0, r, 0.0);
#endif
  }
#endif
}
