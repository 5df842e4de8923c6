// The second pass over a product whose K was cut: adds the parts of every element in order, then finishes it.
struct Params {
  N: u32,
  rows: u32,
  splits: u32,
  gridX: u32,
  biasOffset: u32,
  biasStride: u32,
  residualOffset: u32,
  scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
#if C_VEC
@group(0) @binding(1) var<storage, read> partial: array<vec4f>;
#else
@group(0) @binding(1) var<storage, read> partial: array<f32>;
#endif
#import "matmul/epilogue.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let columns = (params.N + 3) / 4;
  let cell = (group.y * params.gridX + group.x) * 64 + thread;
  let row = cell / columns;
  let column = cell % columns * 4;
  if (row >= params.rows) {
    return;
  }
  let size = params.rows * params.N;
  let at = row * params.N + column;
  var sum = vec4f();
  for (var s = 0u; s < params.splits; s++) {
#if C_VEC
    sum += partial[(s * size + at) / 4];
#else
    // The last vector of a row may reach into the next row, or into padding at the very end; store() drops those columns.
    let first = s * size + at;
    sum += vec4f(partial[first], partial[first + 1], partial[first + 2], partial[first + 3]);
#endif
  }
  store(sum, column, biasOf(column), row * params.N);
}
