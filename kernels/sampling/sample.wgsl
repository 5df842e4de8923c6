// Draws a token from each row of logits. Filters are thresholds on the logit, found by descending through the bits
// of its order-preserving key, four bits a pass over the row, so that nothing is sorted; the token is then the first
// in order of ids at which the cumulative weight passes a random number. A row sees nothing of other rows.
#import "include/row.wgsl"
#import "include/philox.wgsl"
struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
/// Per row: temperature (0 is greedy), top_k (0 is off), top_p, min_p, and four unused.
@group(0) @binding(2) var<storage, read> settings: array<f32>;
/// Per row: seed low, seed high, choice, position.
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> ids: array<u32>;

#if BY == 0
fn rowSum4(value: vec4<f32>, lane: u32) -> vec4<f32> {
  return value;
}
fn rowBefore(value: f32, lane: u32) -> f32 {
  return 0.0;
}
#endif
#if BY == 1
fn rowSum4(value: vec4<f32>, lane: u32) -> vec4<f32> {
  return subgroupAdd(value);
}
fn rowBefore(value: f32, lane: u32) -> f32 {
  return subgroupExclusiveAdd(value);
}
#endif
#if BY == 2
var<workgroup> slots4: array<vec4<f32>, WG>;
var<workgroup> heads4: array<vec4<f32>, 16>;

fn rowSum4(value: vec4<f32>, lane: u32) -> vec4<f32> {
  slots4[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var sum = vec4<f32>();
    for (var i = lane; i < WG; i += 16u) {
      sum += slots4[i];
    }
    heads4[lane] = sum;
  }
  workgroupBarrier();
  var all = vec4<f32>();
  for (var i = 0u; i < 16u; i++) {
    all += heads4[i];
  }
  return all;
}
/// Sum of the values of the lanes before this one.
fn rowBefore(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  slots[lane] = value;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < lane; i++) {
    sum += slots[i];
  }
  workgroupBarrier();
  return sum;
}
#endif

/// Unsigned integers in the order of the floats.
fn orderKey(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn weightOf(value: f32, top: f32, temperature: f32) -> f32 {
  return exp((value - top) / temperature);
}

/// The lowest key K for which what lies above it sums to less than `limit`: counts or, `byMass`, weights of keys from
/// `least` on.
fn threshold(
  base: u32,
  cols: u32,
  lane: u32,
  limit: f32,
  byMass: bool,
  least: u32,
  top: f32,
  temperature: f32,
) -> u32 {
  var prefix = 0u;
  for (var shift = 28i; shift >= 0i; shift -= 4i) {
    let fill = (1u << u32(shift)) - 1u;
    var above = array<vec4<f32>, 4>();
    for (var i = lane; i < cols; i += LANES) {
      let value = f32(x[base + i]);
      let key = orderKey(value);
      let weight = select(1.0, select(0.0, weightOf(value, top, temperature), key >= least), byMass);
      #unroll J 4
      {
        let ends = vec4<u32>(J * 4u, J * 4u + 1u, J * 4u + 2u, J * 4u + 3u) << vec4<u32>(u32(shift));
        above[J] += select(vec4<f32>(0.0), vec4<f32>(weight), vec4<u32>(key) > (ends | vec4<u32>(prefix | fill)));
      }
      #end
    }
    // Sums fall along the sixteen ends; the digit is the number of those still at the limit or over it.
    var digit = 0.0;
    for (var j = 0u; j < 4u; j++) {
      let over = rowSum4(above[j], lane) >= vec4<f32>(limit);
      digit += dot(select(vec4<f32>(0.0), vec4<f32>(1.0), over), vec4<f32>(1.0));
    }
    prefix |= min(u32(digit), 15u) << u32(shift);
  }
  return prefix;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let lane = index % LANES;
  let row = rowOf(group, groups, index);
  let inside = min(row, params.rows - 1u);
  let base = inside * params.cols;
  let cols = colsOf(row, params.rows, params.cols);
  let temperature = settings[inside * 8u];
  let topK = settings[inside * 8u + 1u];
  let topP = settings[inside * 8u + 2u];
  let minP = settings[inside * 8u + 3u];

  var most = LOWEST;
  var mostAt = 0u;
  var lost = false;
  for (var i = lane; i < cols; i += LANES) {
    let value = f32(x[base + i]);
    let bits = bitcast<u32>(value);
    lost = lost || (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u;
    if (value > most) {
      most = value;
      mostAt = i;
    }
  }
  let top = rowMax(most, lane);
  // The lowest id of the highest logit; ids below 2^24 are exact in f32.
  let greedy = u32(max(0.0, -rowMax(select(LOWEST, -f32(mostAt), most == top), lane)));
  // NaN or +inf in the row, or nothing but -inf: no id.
  let none = rowMax(select(0.0, 1.0, lost), lane) > 0.0 || top == LOWEST;
  if (temperature <= 0.0) {
    if (row < params.rows && lane == 0u) {
      ids[row] = select(greedy, 0xffffffffu, none);
    }
    return;
  }

  // Top-k, then top-p of what it left: one loop, so that the search is in the kernel once.
  var least = 0u;
  for (var filterNumber = 0u; filterNumber < 2u; filterNumber++) {
    let byMass = filterNumber == 1u;
    if (select(topK <= 0.0, topP >= 1.0, byMass)) {
      continue;
    }
    var limit = topK;
    if (byMass) {
      var mass = 0.0;
      for (var i = lane; i < cols; i += LANES) {
        let value = f32(x[base + i]);
        mass += select(0.0, weightOf(value, top, temperature), orderKey(value) >= least);
      }
      // The most likely token stays whatever top_p is.
      limit = max(topP * rowSum(mass, lane), 1e-30);
    }
    least = max(least, threshold(base, cols, lane, limit, byMass, least, top, temperature));
  }

  // Each lane owns a run of ids, so that the cumulative weight goes up with the id.
  let run = (cols + LANES - 1u) / LANES;
  let first = min(lane * run, cols);
  let end = min(first + run, cols);
  var mass = 0.0;
  for (var i = first; i < end; i++) {
    let value = f32(x[base + i]);
    let weight = weightOf(value, top, temperature);
    mass += select(0.0, weight, orderKey(value) >= least && weight >= minP);
  }
  let before = rowBefore(mass, lane);
  let all = rowSum(mass, lane);
  let key = keys[inside];
  let goal = toUnit(philox(key.xy, vec4<u32>(key.w, key.z, 0u, 0u))).x * all;
  var found = LOWEST;
  if (before + mass > goal) {
    var sum = before;
    for (var i = first; i < end; i++) {
      let value = f32(x[base + i]);
      let weight = weightOf(value, top, temperature);
      if (orderKey(value) >= least && weight >= minP && weight > 0.0) {
        sum += weight;
        if (sum > goal) {
          found = -f32(i);
          break;
        }
      }
    }
  }
  let chosen = rowMax(found, lane);
  if (row < params.rows && lane == 0u) {
    ids[row] = select(select(u32(max(0.0, -chosen)), greedy, chosen == LOWEST), 0xffffffffu, none);
  }
}
