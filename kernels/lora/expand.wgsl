// out[n] = y[n] + scale * sum over r of b[start + r] * low[n][r].
#import "include/vec.wgsl"
#import "lora/slot.wgsl"
struct Params { rows: u32, cols: u32, rank: u32, adapters: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<T0v>;
@group(0) @binding(2) var<storage, read> b: array<T3v>;
@group(0) @binding(3) var<storage, read> slot_of: array<i32>;
@group(0) @binding(4) var<storage, read> spans: array<vec2<i32>>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read> low: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<U0v>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  let n = i / params.cols;
  if (n >= params.rows) {
    return;
  }
  let span = spanOf(slot_of[n]);
  if (span.y == 0u) {
    out[i] = y[i];
    return;
  }
  var sum = V(0.0);
  for (var r = 0u; r < min(span.y, params.rank); r++) {
    sum += V(b[(span.x + r) * params.cols + i % params.cols]) * low[n * params.rank + r];
  }
  out[i] = U0v(V(y[i]) + scales[slot_of[n]] * sum);
}
