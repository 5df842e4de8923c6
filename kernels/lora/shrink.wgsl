// low[n][r] = dot(a[start + r], x[n]) for the r below the rank of row n's adapter, and 0 for the others. One worker for each.
#import "include/row_main.wgsl"
#import "lora/slot.wgsl"
struct Params { rows: u32, cols: u32, rank: u32, adapters: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T1v>;
@group(0) @binding(2) var<storage, read> a: array<T2v>;
@group(0) @binding(3) var<storage, read> slot_of: array<i32>;
@group(0) @binding(4) var<storage, read> spans: array<vec2<i32>>;
@group(0) @binding(5) var<storage, read_write> low: array<f32>;

fn work(row: u32, lane: u32) {
  let at = min(row, params.rows - 1u);
  let n = at / params.rank;
  let r = at % params.rank;
  let span = spanOf(slot_of[n]);
  let used = row < params.rows && r < span.y;
  let end = select(0u, params.cols, used);
  var sum = V(0.0);
  for (var i = lane; i < end; i += LANES) {
    sum += V(a[(span.x + r) * params.cols + i]) * V(x[n * params.cols + i]);
  }
  let dot = rowSum(total(sum), lane);
  if (row < params.rows && lane == 0u) {
    low[row] = dot;
  }
}
