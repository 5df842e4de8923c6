// Cross-entropy of each row of logits against its target, and its derivative; the row's maximum and sum of
// exponentials come from one pass (see softmax/forward.wgsl).
// LOSS: stores the loss. GRAD: stores dlogits. SCALED: dlogits are multiplied by the row's dloss (1) or by one for all (2).
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32, width: u32, ignored: i32, smoothing: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0v>;
@group(0) @binding(2) var<storage, read> labels: array<T1>;
#if SCALED
@group(0) @binding(3) var<storage, read> dloss: array<T2>;
#endif
#if LOSS
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
#endif
#if GRAD
@group(0) @binding(5) var<storage, read_write> dx: array<TGRAD>;
#endif

/// One element of a row whose vectors start at `base`.
fn element(base: u32, i: u32) -> f32 {
#if VEC == 4
  let four = V(x[base + i / 4u]);
  return four[i % 4u];
#else
  return f32(x[base + i]);
#endif
}

/// 1 where the elements of vector `i` are the label.
fn isLabel(i: u32, label: u32) -> V {
#if VEC == 4
  let first = i * 4u;
  return select(V(0.0), V(1.0), vec4<u32>(first, first + 1u, first + 2u, first + 3u) == vec4<u32>(label));
#else
  return select(0.0, 1.0, i == label);
#endif
}

fn work(row: u32, lane: u32) {
  let inside = min(row, params.rows - 1u);
  let base = inside * params.cols;
  let end = endOf(row, params.rows, params.cols, arrayLength(&x));
  var most = V(LOWEST);
  var sum = V(0.0);
  var check = 0.0;
#if SMOOTH
  var plain = V(0.0);
#endif
  for (var i = base + lane; i < end; i += LANES) {
    let v = V(x[i]);
    let distance = abs(v - most);
    let e = exp(-distance);
    sum = select(sum + e, sum * e + 1.0, v > most);
    most = max(most, v);
    check += total(distance);
#if SMOOTH
    plain += v;
#endif
  }
  let top = rowMax(peak(most), lane);
  let exponentials = rowSum(keepNaN(total(sum * exp(most - top)), check), lane);
#if SMOOTH
  let average = rowSum(total(plain), lane) / f32(params.width);
#endif
  if (row >= params.rows) {
    return;
  }
  let supervised = i32(labels[row]) != params.ignored;
  let label = u32(labels[row]);
  let valid = label < params.width;
  // A label that is neither a class nor the ignored one is a mistake: NaN, in the derivative too, stops the run.
  let all = select(nanOf(top), settledSum(exponentials, top), valid);
#if LOSS
  if (lane == 0u) {
    var value = logOf(all) - (1.0 - params.smoothing) * (element(base, select(0u, label, valid)) - top);
#if SMOOTH
    value -= params.smoothing * (average - top);
#endif
    loss[row] = select(0.0, value, supervised);
  }
#endif
#if GRAD
#if SCALED == 1
  let upstream = f32(dloss[row]);
#else
#if SCALED == 2
  let upstream = f32(dloss[0]);
#else
  let upstream = 1.0;
#endif
#endif
  if (!supervised) {
    for (var i = base + lane; i < end; i += LANES) {
      dx[i] = TGRAD();
    }
    return;
  }
  let scale = 1.0 / all;
  let hit = 1.0 - params.smoothing;
  let miss = params.smoothing / f32(params.width);
  for (var i = base + lane; i < end; i += LANES) {
    // Upstream last: infinity times what is no label's 0 would be NaN.
    dx[i] = TGRAD(upstream * (exp(V(x[i]) - top) * scale - hit * isLabel(i - base, label) - miss));
  }
#endif
}
