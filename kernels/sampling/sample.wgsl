// Draws a token of each row of logits, in whole numbers as draw.ts says. Nothing is sorted: the k-th logit, the last of
// top-p and the token itself are found by `search`, two bits of a number at a time, each with one walk over the row.
#import "include/row_main.wgsl"
#import "include/philox.wgsl"
struct Params { rows: u32, cols: u32, idBits: u32, keyBits: u32 }
@group(0) @binding(0) var<uniform> params: Params;
/// The bits of f32 numbers.
@group(0) @binding(1) var<storage, read> x: array<i32>;
/// Twelve words a row: see settingsRow.
@group(0) @binding(2) var<storage, read> settings: array<u32>;
@group(0) @binding(3) var<storage, read_write> ids: array<i32>;
/// A thread reads no weight but those it wrote.
@group(0) @binding(4) var<storage, read_write> weights: array<u32>;

const INFINITY = 0x7f800000;
const SIGN = 0x80000000u;
/// The weight of the highest logit.
const HIGHEST = 0x8000000u;

/// Unsigned integers in the order of the floats: -0 as +0, every NaN above all. None is 0.
fn orderKey(bits: i32) -> u32 {
  let size = bits & 0x7fffffff;
  let negative = bits <= (-0x7fffffff - 1 + INFINITY);
  return u32(select(size, -size, negative)) ^ SIGN;
}

#if BY == 0
fn rowMost(value: u32, lane: u32) -> u32 {
  return value;
}
fn rowTotal(value: vec4<u32>, lane: u32) -> vec4<u32> {
  return value;
}
#endif
#if BY == 1
fn rowMost(value: u32, lane: u32) -> u32 {
  return subgroupMax(value);
}
fn rowTotal(value: vec4<u32>, lane: u32) -> vec4<u32> {
  return subgroupAdd(value);
}
#endif
#if BY == 2
var<workgroup> parts: array<vec4<u32>, WG>;
var<workgroup> parts16: array<vec4<u32>, 16>;
/// As rowSum of include/row.wgsl.
fn rowTotal(value: vec4<u32>, lane: u32) -> vec4<u32> {
  parts[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var all = vec4<u32>();
    for (var i = lane; i < WG; i += 16u) {
      all += parts[i];
    }
    parts16[lane] = all;
  }
  workgroupBarrier();
  var all = vec4<u32>();
  for (var i = 0u; i < 16u; i++) {
    all += parts16[i];
  }
  return all;
}
fn rowMost(value: u32, lane: u32) -> u32 {
  parts[lane].x = value;
  workgroupBarrier();
  if (lane < 16u) {
    var all = 0u;
    for (var i = lane; i < WG; i += 16u) {
      all = max(all, parts[i].x);
    }
    parts16[lane].x = all;
  }
  workgroupBarrier();
  var all = 0u;
  for (var i = 0u; i < 16u; i++) {
    all = max(all, parts16[i].x);
  }
  return all;
}
#endif

/// A number of up to 45 bits, its lower 14 in y: sums of 2^18 weights, kept in halves, do not overflow.
fn settled(halves: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(halves.x + (halves.y >> 14u), halves.y & 0x3fffu);
}
fn halvesOf(weight: u32) -> vec2<u32> {
  return vec2<u32>(weight >> 14u, weight & 0x3fffu);
}
fn reaches(sum: vec2<u32>, limit: vec2<u32>) -> bool {
  return sum.x > limit.x || (sum.x == limit.x && sum.y >= limit.y);
}
fn plus(sum: vec2<u32>, more: u32) -> vec2<u32> {
  return settled(sum + vec2<u32>(0u, more));
}
fn minus(sum: vec2<u32>, less: vec2<u32>) -> vec2<u32> {
  let borrow = u32(sum.y < less.y);
  return vec2<u32>(sum.x - less.x - borrow, (sum.y - less.y) & 0x3fffu);
}
/// total * word / 2^32, rounded down, or up with `up`.
fn share(total: vec2<u32>, word: u32, up: bool) -> vec2<u32> {
  let low = (total.x << 14u) | total.y;
  let high = total.x >> 18u;
  let carried = highProduct(low, word);
  let first = high * word;
  let sum = first + carried;
  let upper = highProduct(high, word) + u32(sum < first);
  let whole = vec2<u32>((upper << 18u) | (sum >> 14u), sum & 0x3fffu);
  return plus(whole, u32(up && low * word != 0u));
}

/// A logit with `point` bits after the point, cut toward zero, at most 2^30 in size.
fn fixed(bits: i32, point: i32) -> i32 {
  let size = u32(bits) & 0x7fffffffu;
  let exponent = i32(max(size >> 23u, 1u));
  let mantissa = (size & 0x7fffffu) | select(0u, 0x800000u, size >= 0x800000u);
  let shift = exponent - 150 + point;
  let left = select(0x40000000u, mantissa << u32(clamp(shift, 0, 6)), shift <= 6);
  let right = select(0u, mantissa >> u32(clamp(-shift, 0, 31)), shift > -32);
  let cut = i32(min(select(right, left, shift >= 0), 0x40000000u));
  return select(cut, -cut, bits < 0);
}

/// floor(r * f / 2^24) for r below 2^28 and f below 2^24.
fn scaled(r: u32, f: u32) -> u32 {
  return highProduct(r << 4u, f << 4u);
}

/// 2^27 * 2^-distance, where a distance is `difference * multiplier / 2^shift` of 2^-24.
fn weightOf(difference: u32, multiplier: u32, shift: i32) -> u32 {
  let low = difference * multiplier;
  let high = highProduct(difference, multiplier);
  let down = u32(clamp(shift, 0, 31));
  let up = u32(clamp(-shift, 0, 28));
  var far = shift < -28 && low != 0u;
  far = far || (high >> down) != 0u;
  far = far || (up > 0u && (low >> (31u - up)) != 0u);
  let distance = select(((high << 1u) << (31u - down)) | (low >> down), low << up, shift < 0);
  far = far || distance >= (28u << 24u);
  let f = distance & 0xffffffu;
  var r = 86680u - scaled(7712u, f);
  r = 644046u - scaled(r, f);
  r = 3724490u - scaled(r, f);
  r = 16121300u - scaled(r, f);
  r = 46516319u - scaled(r, f);
  r = 67108864u - scaled(r, f);
  return select((r << 1u) >> (distance >> 24u), 0u, far);
}

/// What is looked for, in this order: the k-th logit, the last logit of top-p, which of its equals is the last, the token.
const TOP_K = 0u;
const TOP_P = 1u;
const EQUALS = 2u;
const TOKEN = 3u;

fn work(row: u32, lane: u32) {
  let inside = min(row, params.rows - 1u);
  let base = row * params.cols;
  let end = endOf(row, params.rows, params.cols, min(arrayLength(&x), arrayLength(&weights)));
  let s = inside * 12u;
  let multiplier = settings[s];

  var mostKey = 0u;
  for (var i = base + lane; i < end; i += LANES) {
    mostKey = max(mostKey, orderKey(x[i]));
  }
  mostKey = rowMost(mostKey, lane);
  let most = i32(mostKey ^ SIGN);
  let mostBits = select(most, i32(u32(-most) | SIGN), most < 0);
  let point = min(23, 29 - (((mostBits >> 23u) & 0xff) - 127));
  let top = fixed(mostBits, point);
  let shift = point - i32(settings[s + 1u]);
  for (var i = base + lane; i < end; i += LANES) {
    let difference = u32(top) - u32(fixed(x[i], point));
    let drawn = select(weightOf(difference, multiplier, shift), 0u, u32(x[i]) == 0xff800000u);
    weights[i] = select(drawn, select(0u, HIGHEST, orderKey(x[i]) == mostKey), multiplier == 0u);
  }

  let topK = select(0u, settings[s + 2u], multiplier != 0u && settings[s + 2u] < params.cols);
  let topP = select(0u, settings[s + 3u], multiplier != 0u);
  let least = select(0u, settings[s + 4u], multiplier != 0u);
  let random = philox(vec2<u32>(settings[s + 5u], settings[s + 6u]), vec4<u32>(settings[s + 8u], settings[s + 7u], 0u, 0u));
  let word = select(0u, random.x, multiplier != 0u);
  var limit = vec2<u32>();
  var lastKey = 0u;
  var found = 0u;
  for (var goal = TOP_K; goal <= TOKEN; goal++) {
    if ((goal == TOP_K && topK == 0u) || ((goal == TOP_P || goal == EQUALS) && topP == 0u)) {
      continue;
    }
    // What is kept so far, or above the last of top-p.
    var part = vec2<u32>();
    for (var i = base + lane; i < end; i += LANES) {
      if (goal == TOKEN && weights[i] < least) {
        weights[i] = 0u;
      }
      let counts = goal != EQUALS || orderKey(x[i]) > lastKey;
      part += select(vec2<u32>(), halvesOf(weights[i]), counts);
    }
    let sum = settled(rowTotal(vec4<u32>(part, 0u, 0u), lane).xy);
    if (goal == TOP_K) {
      limit = halvesOf(topK);
    } else if (goal == TOP_P) {
      limit = share(sum, topP, true);
    } else if (goal == EQUALS) {
      limit = minus(limit, sum);
    } else {
      limit = plus(share(sum, word, false), 1u);
    }

    // The largest number at or above which the sums reach the limit: of keys, or of ids upside down.
    let byKey = goal == TOP_K || goal == TOP_P;
    var bit = select(params.idBits, params.keyBits, byKey);
    found = select(0xffffffffu << params.idBits, 0u, byKey);
    while (bit > 0u) {
      bit -= 2u;
      let ends = (vec3<u32>(1u, 2u, 3u) << vec3<u32>(bit)) | vec3<u32>(found);
      var high = vec3<u32>();
      var low = vec3<u32>();
      for (var i = base + lane; i < end; i += LANES) {
        let key = orderKey(x[i]);
        let place = select(~(i - base), key, byKey);
        let counted = select(halvesOf(weights[i]), vec2<u32>(0u, 1u), goal == TOP_K);
        let value = select(counted, vec2<u32>(), goal == EQUALS && key != lastKey);
        let over = vec3<u32>(place) >= ends;
        high += select(vec3<u32>(), vec3<u32>(value.x), over);
        low += select(vec3<u32>(), vec3<u32>(value.y), over);
      }
      let highs = rowTotal(vec4<u32>(high, 0u), lane);
      let lows = rowTotal(vec4<u32>(low, 0u), lane);
      let digit = u32(reaches(settled(vec2<u32>(highs.x, lows.x)), limit))
        + u32(reaches(settled(vec2<u32>(highs.y, lows.y)), limit))
        + u32(reaches(settled(vec2<u32>(highs.z, lows.z)), limit));
      found |= digit << bit;
    }

    if (goal == TOP_P) {
      lastKey = found;
    }
    if (goal == TOP_K || goal == EQUALS) {
      for (var i = base + lane; i < end; i += LANES) {
        let key = orderKey(x[i]);
        let equalKept = key == lastKey && ~(i - base) >= found;
        let kept = select(key > lastKey || equalKept, key >= found, goal == TOP_K);
        weights[i] = select(0u, weights[i], kept);
      }
    }
  }
  if (row < params.rows && lane == 0u) {
    let usable = mostKey < (SIGN + u32(INFINITY)) && mostKey > (SIGN - u32(INFINITY));
    ids[row] = select(-1, i32(~found), usable);
  }
}
