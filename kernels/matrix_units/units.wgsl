// Matrix units under one set of names. A subgroup holds small matrices of MM x MK (Left), MK x MN (Right) and MM x MN
// (Result) elements, loads operands from `staged`, f16 in workgroup memory, and exchanges results with threads through
// `drained`, f32. Offsets and strides count elements; `turned` means that memory holds the matrix column by column.
// The operands of all calls must be the same in a whole subgroup. DIALECT: `template` and `boolean` are two spellings of
// an extension that is still changing (in the names of its types columns come before rows); `emulated` is plain WGSL.
// STAGED_VECTORS: the workgroup arrays hold vec4, so that threads write four elements at once.

#if DIALECT == emulated
// Whatever the operands are, so that adapters without f16 can run the tests.
alias Half = T0;
#else
alias Half = f16;
#endif
#if STAGED_VECTORS
var<workgroup> staged: array<vec4<Half>, (STAGED + 3) / 4>;
var<workgroup> drained: array<vec4<f32>, (DRAINED + 3) / 4>;
#else
var<workgroup> staged: array<Half, STAGED>;
var<workgroup> drained: array<f32, DRAINED>;
#endif

/// Writes four elements at a multiple of four.
fn stage4(at: u32, x: vec4<Half>) {
#if STAGED_VECTORS
  staged[at / 4] = x;
#else
  staged[at] = x.x;
  staged[at + 1] = x.y;
  staged[at + 2] = x.z;
  staged[at + 3] = x.w;
#endif
}

/// Four results from a multiple of four.
fn drained4(at: u32) -> vec4f {
#if STAGED_VECTORS
  return drained[at / 4];
#else
  return vec4f(drained[at], drained[at + 1], drained[at + 2], drained[at + 3]);
#endif
}

fn drain4(at: u32, x: vec4f) {
#if STAGED_VECTORS
  drained[at / 4] = x;
#else
  drained[at] = x.x;
  drained[at + 1] = x.y;
  drained[at + 2] = x.z;
  drained[at + 3] = x.w;
#endif
}

#if DIALECT == emulated
#import "matrix_units/emulated.wgsl"
#else
alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Result = subgroup_matrix_result<f32, MN, MM>;

fn start_matrices(lane: u32) {}

fn multiply(a: Left, b: Right, sum: Result) -> Result {
  return subgroupMatrixMultiplyAccumulate(a, b, sum);
}

#if DIALECT == template
fn load_left(at: u32, stride: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&staged, at / OFFSET_UNIT, stride / STRIDE_UNIT);
}
fn load_left_turned(at: u32, stride: u32) -> Left {
  return subgroupMatrixLoad<Left, col_major>(&staged, at / OFFSET_UNIT, stride / STRIDE_UNIT);
}
fn load_right(at: u32, stride: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&staged, at / OFFSET_UNIT, stride / STRIDE_UNIT);
}
fn load_right_turned(at: u32, stride: u32) -> Right {
  return subgroupMatrixLoad<Right, col_major>(&staged, at / OFFSET_UNIT, stride / STRIDE_UNIT);
}
fn load_result(at: u32, stride: u32) -> Result {
  return subgroupMatrixLoad<Result, row_major>(&drained, at / OFFSET_UNIT, stride / STRIDE_UNIT);
}
fn store_result(x: Result, at: u32, stride: u32) {
  subgroupMatrixStore<row_major>(&drained, at / OFFSET_UNIT, x, stride / STRIDE_UNIT);
}
#else
fn load_left(at: u32, stride: u32) -> Left {
  return subgroupMatrixLoad<Left>(&staged, at, false, stride);
}
fn load_left_turned(at: u32, stride: u32) -> Left {
  return subgroupMatrixLoad<Left>(&staged, at, true, stride);
}
fn load_right(at: u32, stride: u32) -> Right {
  return subgroupMatrixLoad<Right>(&staged, at, false, stride);
}
fn load_right_turned(at: u32, stride: u32) -> Right {
  return subgroupMatrixLoad<Right>(&staged, at, true, stride);
}
fn load_result(at: u32, stride: u32) -> Result {
  return subgroupMatrixLoad<Result>(&drained, at, false, stride);
}
fn store_result(x: Result, at: u32, stride: u32) {
  subgroupMatrixStore(&drained, at, x, false, stride);
}
#endif
#endif
