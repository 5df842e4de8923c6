// Matrix units in plain WGSL: every lane holds the whole of a Left, and the columns lane, lane + SG, ... of a Right and of
// a Result. Slow; only tests of the kernels on adapters without matrix units use it.
const RIGHT_COLUMNS = (MN + SG - 1) / SG;

struct Left { x: array<f32, MM * MK> }
struct Right { x: array<f32, RIGHT_COLUMNS * MK> }
struct Result { x: array<f32, RIGHT_COLUMNS * MM> }

var<private> my_lane: u32;
/// 1, in a way that compilers do not see: loops of constant length would be unrolled, and compile for seconds.
var<private> one: u32;

fn start_matrices(lane: u32) {
  my_lane = lane;
  one = subgroupAdd(1u) / SG;
}

fn staged_at(at: u32) -> f32 {
#if STAGED_VECTORS
  return f32(staged[at / 4][at % 4]);
#else
  return f32(staged[at]);
#endif
}

fn left_from(at: u32, row_step: u32, k_step: u32) -> Left {
  var a = Left();
  for (var m = 0u; m < MM * one; m++) {
    for (var k = 0u; k < MK * one; k++) { a.x[m * MK + k] = staged_at(at + m * row_step + k * k_step); }
  }
  return a;
}

fn right_from(at: u32, column_step: u32, k_step: u32) -> Right {
  var b = Right();
  for (var c = 0u; c < RIGHT_COLUMNS * one; c++) {
    let column = min(c * SG + my_lane, MN - 1u);
    for (var k = 0u; k < MK * one; k++) { b.x[c * MK + k] = staged_at(at + column * column_step + k * k_step); }
  }
  return b;
}

fn load_left(at: u32, stride: u32) -> Left { return left_from(at, stride, 1); }
fn load_left_turned(at: u32, stride: u32) -> Left { return left_from(at, 1, stride); }
fn load_right(at: u32, stride: u32) -> Right { return right_from(at, 1, stride); }
fn load_right_turned(at: u32, stride: u32) -> Right { return right_from(at, stride, 1); }

fn multiply(a: Left, b: Right, sum: Result) -> Result {
  var left = a;
  var right = b;
  var total = sum;
  for (var c = 0u; c < RIGHT_COLUMNS * one; c++) {
    for (var m = 0u; m < MM * one; m++) {
      for (var k = 0u; k < MK * one; k++) {
        total.x[c * MM + m] = fma(left.x[m * MK + k], right.x[c * MK + k], total.x[c * MM + m]);
      }
    }
  }
  return total;
}

fn load_result(at: u32, stride: u32) -> Result {
  var total = Result();
  for (var c = 0u; c < RIGHT_COLUMNS * one; c++) {
    let column = min(c * SG + my_lane, MN - 1u);
    for (var m = 0u; m < MM * one; m++) {
      let from_ = at + m * stride + column;
#if STAGED_VECTORS
      total.x[c * MM + m] = drained[from_ / 4][from_ % 4];
#else
      total.x[c * MM + m] = drained[from_];
#endif
    }
  }
  return total;
}

fn store_result(x: Result, at: u32, stride: u32) {
  var total = x;
  for (var c = 0u; c < RIGHT_COLUMNS * one; c++) {
    let column = c * SG + my_lane;
    for (var m = 0u; m < MM * one; m++) {
#if STAGED_VECTORS
      // Lanes take turns within a vector: writing one component may write all four.
      let to = at + m * stride + column;
      let value = total.x[c * MM + m];
      let y = vec4f(
        subgroupShuffle(value, my_lane / 4 * 4),
        subgroupShuffle(value, my_lane / 4 * 4 + 1),
        subgroupShuffle(value, my_lane / 4 * 4 + 2),
        subgroupShuffle(value, my_lane / 4 * 4 + 3),
      );
      if (column < MN && my_lane % 4 == 0) { drained[to / 4] = y; }
#else
      if (column < MN) { drained[at + m * stride + column] = total.x[c * MM + m]; }
#endif
    }
  }
}
