// The id of the highest logit of each row, the lowest id of equals; -1 for a row that is no distribution (NaN, +inf, or
// nothing but -inf). Logits are compared as integers: drivers may take NaN for impossible and round tiny numbers to 0.
#import "include/row_main.wgsl"
struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> params: Params;
/// The bits of f32 numbers.
@group(0) @binding(1) var<storage, read> x: array<i32>;
@group(0) @binding(2) var<storage, read_write> ids: array<i32>;

const INFINITY = 0x7f800000;
const SIGN = 0x80000000u;

/// Unsigned integers in the order of the floats: -0 as +0, every NaN above all. None is 0.
fn orderKey(bits: vec4<i32>) -> vec4<u32> {
  let size = bits & vec4<i32>(0x7fffffff);
  // Sign and size of a number from -inf to -0; as integers these are below those of negative NaNs.
  let negative = bits <= vec4<i32>(-0x7fffffff - 1 + INFINITY);
  return vec4<u32>(select(size, -size, negative)) ^ vec4<u32>(SIGN);
}
fn highest(keys: vec4<u32>) -> u32 {
  return max(max(keys.x, keys.y), max(keys.z, keys.w));
}

#if BY == 0
fn rowMost(value: u32, lane: u32) -> u32 {
  return value;
}
#endif
#if BY == 1
fn rowMost(value: u32, lane: u32) -> u32 {
  return subgroupMax(value);
}
#endif
#if BY == 2
var<workgroup> most: array<u32, WG>;
var<workgroup> most16: array<u32, 16>;
/// As rowMax of include/row.wgsl.
fn rowMost(value: u32, lane: u32) -> u32 {
  most[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var all = 0u;
    for (var i = lane; i < WG; i += 16u) {
      all = max(all, most[i]);
    }
    most16[lane] = all;
  }
  workgroupBarrier();
  var all = 0u;
  for (var i = 0u; i < 16u; i++) {
    all = max(all, most16[i]);
  }
  return all;
}
#endif

fn work(row: u32, lane: u32) {
  let base = row * params.cols;
  let end = endOf(row, params.rows, params.cols, arrayLength(&x));
  var keys = vec4<u32>();
  var places = vec4<u32>();
  // Four loads are on their way at once: few workers have a long row each. Past the end, the last element comes again.
  for (var i = base + lane; i < end; i += 4u * LANES) {
    let at = min(vec4<u32>(i) + LANES * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(end - 1u));
    let candidates = orderKey(vec4<i32>(x[at.x], x[at.y], x[at.z], x[at.w]));
    let better = candidates > keys;
    keys = select(keys, candidates, better);
    places = select(places, at, better);
  }
  let top = rowMost(highest(keys), lane);
  // The lowest place is the highest complement; what is not the top has 0.
  let found = select(vec4<u32>(), ~places, keys == vec4<u32>(top));
  let first = ~rowMost(highest(found), lane) - base;
  if (row < params.rows && lane == 0u) {
    let usable = top < (SIGN + u32(INFINITY)) && top > (SIGN - u32(INFINITY));
    ids[row] = select(-1, i32(first), usable);
  }
}
