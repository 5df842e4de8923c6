// One worker per row. BY == 0: a thread; 1: a subgroup, which needs no barrier (best on software adapters); 2: a
// workgroup of WG threads. LANES threads share a row, and all of them must reach every call of these functions.
// VEC == 4: elements are handled four at a time as V.
#import "include/special.wgsl"
#import "include/vec.wgsl"
#if VEC == 4
fn total(v: V) -> f32 {
  return (v.x + v.y) + (v.z + v.w);
}
fn peak(v: V) -> f32 {
  return max(max(v.x, v.y), max(v.z, v.w));
}
#else
fn total(v: V) -> f32 {
  return v;
}
fn peak(v: V) -> f32 {
  return v;
}
#endif

fn nanOf(x: f32) -> f32 {
  return bitcast<f32>(0x7fc00000u | bitcast<u32>(x));
}
/// The logarithm of a positive number, or NaN of NaN.
fn logOf(x: f32) -> f32 {
  return select(log(x), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}

/// A worker's part of a sum of exponentials, NaN where one of its elements was, which max and exp may drop. `check` is the sum
/// of the elements' distances from a maximum: all of one sign, so that only NaN makes it NaN.
fn keepNaN(sum: f32, check: f32) -> f32 {
  return select(sum, check, (bitcast<u32>(check) & 0x7fffffffu) > 0x7f800000u);
}

/// The sum of a row's exponentials around its maximum, or NaN where softmax has no value: beside NaN these are rows with
/// +infinity, and of nothing but -infinity.
fn settledSum(all: f32, top: f32) -> f32 {
  return select(all, nanOf(all), bitcast<u32>(top) == 0x7f800000u || all == 0.0);
}

/// The most negative f32: an identity of max that, unlike -inf, may be subtracted from itself.
const LOWEST = -3.40282346e38;

/// The row of a thread; rows past the end exist in the last workgroup and must not be stored.
fn rowOf(group: vec3<u32>, groups: vec3<u32>, index: u32) -> u32 {
  let number = group.x + group.y * groups.x;
#if BY == 2
  return number;
#else
  return number * (WG / LANES) + index / LANES;
#endif
}

/// The number of columns a row's worker visits: none in rows past the end.
fn colsOf(row: u32, rows: u32, cols: u32) -> u32 {
  return select(0u, cols, row < rows);
}

/// End index of a row's loop, which starts at row * cols; equals the start for rows past the end. `length` is that of the
/// shortest array the loop reads: Tint then leaves out its own check of each access.
fn endOf(row: u32, rows: u32, cols: u32, length: u32) -> u32 {
  return min((row + 1u) * colsOf(row, rows, cols), length);
}

#if BY == 0
fn rowSum(value: f32, lane: u32) -> f32 {
  return value;
}
fn rowMax(value: f32, lane: u32) -> f32 {
  return value;
}
#endif
#if BY == 1
fn rowSum(value: f32, lane: u32) -> f32 {
  return subgroupAdd(value);
}
fn rowMax(value: f32, lane: u32) -> f32 {
  return subgroupMax(value);
}
#endif
#if BY == 2
// Two rounds of 16 by 16 values: two barriers and no loop around them, which software adapters compile in no time.
var<workgroup> slots: array<f32, WG>;
var<workgroup> heads: array<f32, 16>;

fn rowSum(value: f32, lane: u32) -> f32 {
  slots[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var sum = 0.0;
    for (var i = lane; i < WG; i += 16u) {
      sum += slots[i];
    }
    heads[lane] = sum;
  }
  workgroupBarrier();
  var all = 0.0;
  for (var i = 0u; i < 16u; i++) {
    all += heads[i];
  }
  return all;
}
fn rowMax(value: f32, lane: u32) -> f32 {
  slots[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var most = LOWEST;
    for (var i = lane; i < WG; i += 16u) {
      most = max(most, slots[i]);
    }
    heads[lane] = most;
  }
  workgroupBarrier();
  var all = LOWEST;
  for (var i = 0u; i < 16u; i++) {
    all = max(all, heads[i]);
  }
  return all;
}
#endif
