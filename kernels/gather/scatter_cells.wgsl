// y = x with src[row, j] added at index[row, j]: one thread a cell looks through all picks of its row, in order. An index
// outside makes its row NaN.
struct Params { size: u32, width: u32, picks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> index: array<T1>;
@group(0) @binding(3) var<storage, read> src: array<T2>;
@group(0) @binding(4) var<storage, read_write> y: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  if (i >= params.size) {
    return;
  }
  let row = i / params.width;
  let column = i % params.width;
  var sum = f32(x[i]);
  var outside = false;
  for (var j = row * params.picks; j < (row + 1u) * params.picks; j++) {
    sum += select(0.0, f32(src[j]), u32(index[j]) == column);
    outside = outside || u32(index[j]) >= params.width;
  }
  sum = select(sum, bitcast<f32>(0x7fc00000u | column), outside);
  y[i] = U0(sum);
}
