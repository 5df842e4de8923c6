// out[n] = y[n] + scale * B A x[n] in one pass: a worker has a row, and keeps A x[n] to itself.
#import "include/row_main.wgsl"
#import "lora/slot.wgsl"
struct Params { rows: u32, cols: u32, outputs: u32, adapters: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<T0v>;
@group(0) @binding(2) var<storage, read> x: array<T1v>;
@group(0) @binding(3) var<storage, read> a: array<T2v>;
@group(0) @binding(4) var<storage, read> b: array<T3v>;
@group(0) @binding(5) var<storage, read> slot_of: array<i32>;
@group(0) @binding(6) var<storage, read> spans: array<vec2<i32>>;
@group(0) @binding(7) var<storage, read> scales: array<f32>;
@group(0) @binding(8) var<storage, read_write> out: array<U0v>;

fn work(row: u32, lane: u32) {
  let n = min(row, params.rows - 1u);
  let span = spanOf(slot_of[n]);
  var low: array<f32, RANK>;
  for (var r = 0u; r < RANK; r++) {
    let end = select(0u, params.cols, r < span.y);
    var sum = V(0.0);
    for (var i = lane; i < end; i += LANES) {
      sum += V(a[(span.x + r) * params.cols + i]) * V(x[n * params.cols + i]);
    }
    low[r] = rowSum(total(sum), lane);
  }
  if (row >= params.rows) {
    return;
  }
  for (var i = lane; i < params.outputs; i += LANES) {
    let at = n * params.outputs + i;
    if (span.y == 0u) {
      out[at] = y[at];
      continue;
    }
    var sum = V(0.0);
    for (var r = 0u; r < min(span.y, RANK); r++) {
      sum += V(b[(span.x + r) * params.outputs + i]) * low[r];
    }
    out[at] = U0v(V(y[at]) + scales[slot_of[n]] * sum);
  }
}
