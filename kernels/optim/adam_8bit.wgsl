// AdamW whose means are shares of their block's largest magnitude, in 8 bits: a workgroup takes a block of 256 elements.
// Means are f32 while they are used; what is kept of them is the nearest code.
struct Params { size: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<f32>; // maps, signed and unsigned, then their boundaries
@group(0) @binding(4) var<storage, read_write> param: array<f32>;
@group(0) @binding(5) var<storage, read> grad: array<T4>;
@group(0) @binding(6) var<storage, read_write> codes: array<u32>; // [2, blocks * 64]
@group(0) @binding(7) var<storage, read_write> absmax: array<f32>; // [2, blocks]

var<workgroup> magnitudes: array<vec2f, 256>;
var<workgroup> largest: array<vec2f, 16>;
var<workgroup> found: array<vec2u, 256>;

/// The code of the nearest value of a map: how many boundaries are below x.
fn codeOf(x: f32, map: u32) -> u32 {
  var code = 0u;
  for (var step = 128u; step > 0; step /= 2) {
    if (x > table[512 + map * 256 + code + step - 1]) {
      code += step;
    }
  }
  return code;
}

/// The largest of 16 pairs from `first` on, each number by itself.
fn largestOfMagnitudes(first: u32) -> vec2f {
  var most = vec2f();
  for (var i = 0u; i < 16; i++) {
    most = max(most, magnitudes[first + i]);
  }
  return most;
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let block = id.x + id.y * groups.x;
  if (scale[0] == 0.0 || block >= params.blocks) {
    return;
  }
  let i = block * 256 + lane;
  let inside = i < params.size;
  let word = block * 64 + lane / 4;
  let shift = lane % 4 * 8;
  let words = params.blocks * 64;
  let oldM = table[(codes[word] >> shift) & 255] * absmax[block];
  let oldV = table[256 + ((codes[words + word] >> shift) & 255)] * absmax[params.blocks + block];
  let g = f32(grad[min(i, params.size - 1)]) * scale[0];
  let m = select(0.0, oldM + (g - oldM) * hyper[ONE_MINUS_BETA1], inside);
  let v = select(0.0, oldV * hyper[BETA2] + hyper[ONE_MINUS_BETA2] * g * g, inside);
  if (inside) {
    let p = param[i] - hyper[LR] * hyper[WEIGHT_DECAY] * param[i];
    param[i] = p - hyper[LR] / hyper[BIAS1] * m / (sqrt(v) / hyper[ROOT_BIAS2] + hyper[EPS]);
  }
  magnitudes[lane] = abs(vec2f(m, v));
  workgroupBarrier();
  if (lane < 16) {
    largest[lane] = largestOfMagnitudes(lane * 16);
  }
  workgroupBarrier();
  var most = vec2f();
  for (var k = 0u; k < 16; k++) {
    most = max(most, largest[k]);
  }
  let divisor = select(most, vec2f(1), most == vec2f());
  found[lane] = vec2u(codeOf(m / divisor.x, 0), codeOf(v / divisor.y, 1)) << vec2u(shift);
  workgroupBarrier();
  if (lane % 4 == 0) {
    let packed = found[lane] | found[lane + 1] | found[lane + 2] | found[lane + 3];
    codes[word] = packed.x;
    codes[words + word] = packed.y;
  }
  if (lane == 0) {
    absmax[block] = most.x;
    absmax[params.blocks + block] = most.y;
  }
}
