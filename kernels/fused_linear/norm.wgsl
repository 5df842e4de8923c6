// The norm of rows of x: NORM 0 none, 1 RMS norm, 2 layer norm. The kernel binds x, its params have cells, width and eps.
#if NORM
@group(0) @binding(30) var<storage, read> norm_weight: array<CNORM>;
#endif
#if NORM == 2
@group(0) @binding(31) var<storage, read> norm_bias: array<CNORM>;
#endif

// The lanes of a subgroup share a row's statistics; without subgroups each thread sums on its own.
#if SG
const SHARE = SG;
fn across(value: f32) -> f32 { return subgroupAdd(value); }
#else
const SHARE = 1u;
fn across(value: f32) -> f32 { return value; }
#endif
#if W == 4
fn total(v: V) -> f32 { return (v.x + v.y) + (v.z + v.w); }
#else
fn total(v: V) -> f32 { return v; }
#endif

/// Of a row of x: its first element, how far its mean is from there, and the inverse deviation (RMS norm: 0, 0 and the
/// inverse root mean square). Far from zero the mean itself, as one f32, is too coarse to be counted from.
fn statistics(at: u32, thread: u32) -> vec3f {
  let lane = thread % SHARE;
  var origin = 0.0;
  var mean = 0.0;
#if NORM == 2
  origin = V(x[at])FIRST;
  var sum = V(0.0);
  for (var k = lane; k < params.cells; k += SHARE) { sum += V(x[at + k]) - origin; }
  mean = across(total(sum)) / params.width;
#endif
  var squares = V(0.0);
  for (var k = lane; k < params.cells; k += SHARE) {
    let d = V(x[at + k]) - origin - mean;
    squares = fma(d, d, squares);
  }
  return vec3f(origin, mean, inverseSqrt(across(total(squares)) / params.width + params.eps));
}

/// Scale and shift of a cell of columns in the norm.
struct Affine {
  scale: V,
  shift: V,
}
fn affine(k: u32) -> Affine {
#if NORM == 1
  return Affine(V(norm_weight[k]), V());
#else
#if NORM == 2
  return Affine(V(norm_weight[k]), V(norm_bias[k]));
#else
  return Affine();
#endif
#endif
}

/// A cell of x as the product takes it.
fn normal(v: V, of_row: vec3f, of_columns: Affine) -> V {
#if NORM == 1
  return v * of_row.z * of_columns.scale;
#else
#if NORM == 2
  return (v - of_row.x - of_row.y) * of_row.z * of_columns.scale + of_columns.shift;
#else
  return v;
#endif
#endif
}
