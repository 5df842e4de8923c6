// One product with a known result, which tells whether and how the matrix units work; see core/webgpu/matrix_units.ts.
#import "matrix_units/units.wgsl"
@group(0) @binding(0) var<storage, read_write> product: array<f32>;

const A_STRIDE = MK + 8;
const B_STRIDE = MN + 8;
const C_STRIDE = MN + 4;
const B_AT = MM * A_STRIDE;

@compute @workgroup_size(SG)
fn main(@builtin(subgroup_invocation_id) lane: u32) {
  start_matrices(lane);
  for (var e = lane * 4; e < MM * MK; e += SG * 4) {
    let i = e / MK;
    let p = vec4u(e % MK) + vec4u(0, 1, 2, 3);
    stage4(i * A_STRIDE + p.x, vec4<Half>(vec4f((vec4u(i) + 2 * p) % 5) - 2));
  }
  for (var e = lane * 4; e < MK * MN; e += SG * 4) {
    let p = e / MN;
    let j = vec4u(e % MN) + vec4u(0, 1, 2, 3);
    stage4(B_AT + p * B_STRIDE + j.x, vec4<Half>(vec4f((vec4u(3 * p) + j) % 7) - 3));
  }
  workgroupBarrier();
  store_result(multiply(load_left(0, A_STRIDE), load_right(B_AT, B_STRIDE), Result()), 0, C_STRIDE);
  workgroupBarrier();
  for (var e = lane * 4; e < MM * MN; e += SG * 4) {
    let y = drained4(e / MN * C_STRIDE + e % MN);
    product[e] = y.x;
    product[e + 1] = y.y;
    product[e + 2] = y.z;
    product[e + 3] = y.w;
  }
}
