// y = x with src[row, j] added at index[row, j]: one thread a row, in the order of j. An index outside makes its row NaN.
struct Params { rows: u32, width: u32, picks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> index: array<T1>;
@group(0) @binding(3) var<storage, read> src: array<T2>;
@group(0) @binding(4) var<storage, read_write> y: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let row = at.x + at.y * groups.x * 64u;
  if (row >= params.rows) {
    return;
  }
  let base = row * params.width;
  for (var i = 0u; i < params.width; i++) {
    y[base + i] = U0(x[base + i]);
  }
  var outside = false;
  for (var j = row * params.picks; j < (row + 1u) * params.picks; j++) {
    let column = u32(index[j]);
    if (column < params.width) {
      y[base + column] = U0(f32(y[base + column]) + f32(src[j]));
    } else {
      outside = true;
    }
  }
  for (var i = 0u; outside && i < params.width; i++) {
    y[base + i] = U0(bitcast<f32>(0x7fc00000u | i));
  }
}
