// y = x, then src[row, j] is combined into y[row, index[row, j]] in the order of j. CELLS: one thread per cell, which
// looks through all picks of its row; otherwise one thread per row. In floats, an index out of range makes its row NaN.
struct Params { size: u32, width: u32, picks: u32 } // size: of y, in cells or rows
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read> index: array<T1>;
@group(0) @binding(3) var<storage, read> src: array<T2>;
@group(0) @binding(4) var<storage, read_write> y: array<U0>;

#if FLOAT
#import "include/special.wgsl"
#endif
fn combine(a: S, b: S) -> S { return COMBINE; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  if (i >= params.size) {
    return;
  }
  var outside = false;
#if CELLS
  let row = i / params.width;
  let column = i % params.width;
  var value = S(x[i]);
#else
  let row = i;
  let base = row * params.width;
  for (var k = base; k < base + params.width; k++) {
    y[k] = U0(x[k]);
  }
#endif
  for (var j = row * params.picks; j < (row + 1u) * params.picks; j++) {
    let target_ = u32(index[j]);
    outside = outside || target_ >= params.width;
#if CELLS
    value = select(value, combine(value, S(src[j])), target_ == column);
#else
    if (target_ < params.width) {
      y[base + target_] = U0(combine(S(y[base + target_]), S(src[j])));
    }
#endif
  }
#if FLOAT
  let nan = bitcast<f32>(0x7fc00000u | i);
#if CELLS
  y[i] = U0(select(value, nan, outside));
#else
  for (var k = base; outside && k < base + params.width; k++) {
    y[k] = U0(nan);
  }
#endif
#else
#if CELLS
  y[i] = U0(value);
#endif
#endif
}
