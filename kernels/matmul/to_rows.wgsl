// Copies B to rows whose length is a multiple of four, one matrix after the other. A thread turns 4 x 4 elements.
// B_VEC: B is read as vec4 along k, else one element at a time whatever its strides.
struct Params {
  N: u32,
  K: u32,
  matrices: u32,
  gridX: u32,
  bOffset: u32,
  bRow: u32,
  bCol: u32,
  axes: u32,
  shape: array<vec4<u32>, QUADS>,
  strides: array<vec4<u32>, QUADS>,
}

@group(0) @binding(0) var<uniform> params: Params;
#if B_NF4
@group(0) @binding(1) var<storage, read> b: array<u32>;
#import "quantized_matmul/nf4.wgsl"
#else
#if B_VEC
@group(0) @binding(1) var<storage, read> b: array<vec4<TB>>;
#else
@group(0) @binding(1) var<storage, read> b: array<TB>;
#endif
#endif
@group(0) @binding(2) var<storage, read_write> y: array<vec4<TB>>;

/// Four elements of a column of B from k on; beyond K the last one again, which is not stored.
fn readColumn(base: u32, n: u32, k: u32) -> vec4<TB> {
  let at = base + min(n, params.N - 1) * params.bCol;
#if B_NF4
  let packing = nf4Of(params.N * params.K);
#if B_VEC
  return fourWeightsAt(at + k, packing);
#else
  let rows = min(vec4u(k, k + 1, k + 2, k + 3), vec4u(params.K - 1)) * params.bRow + at;
  return vec4f(
    weightAt(rows.x, packing),
    weightAt(rows.y, packing),
    weightAt(rows.z, packing),
    weightAt(rows.w, packing),
  );
#endif
#else
#if B_VEC
  return b[(at + k) / 4];
#else
  let rows = min(vec4u(k, k + 1, k + 2, k + 3), vec4u(params.K - 1)) * params.bRow + at;
  return vec4<TB>(b[rows.x], b[rows.y], b[rows.z], b[rows.w]);
#endif
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let across = (params.N + 3) / 4;
  let down = (params.K + 3) / 4;
  var rest = (group.y * params.gridX + group.x) * 64 + thread;
  let column = rest % across;
  rest /= across;
  let k = rest % down * 4;
  let matrix = rest / down;
  if (matrix >= params.matrices) {
    return;
  }
  var base = params.bOffset;
  var batch = matrix;
  for (var i = params.axes; i > 0; i--) {
    let axis = i - 1;
    base += batch % params.shape[axis / 4][axis % 4] * params.strides[axis / 4][axis % 4];
    batch /= params.shape[axis / 4][axis % 4];
  }
  #unroll C 4
  let b$C = readColumn(base, column * 4 + C, k);
  #end
  let first = (matrix * params.K + k) * across + column;
  #unroll U 4
  if (k + U < params.K) {
    y[first + U * across] = vec4<TB>(b0[U], b1[U], b2[U], b3[U]);
  }
  #end
}
