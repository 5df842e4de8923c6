// What the kernels of fused_linear and fused_qkv share. A cell is four elements of a row, or one in the plain kernel; V is
// a cell in f32. A worker computes a unit: two cells of the result, `a` and `b`, that the epilogue wants together:
//   PAIRED   the halves of a head that a rotation turns; heads are those of query, then key, then value
//   GATED    the same columns of gate and up
//   else     neighbouring cells
struct Params {
  rows: u32,        // of the result
  cells: u32,       // in a row of x
  columns: u32,     // elements in a row of the result, of the query too
  stride: u32,      // IN_OUT: cells in a row of the weight
  tiles: u32,       // workgroups for each group of TM rows
  half: u32,        // PAIRED: cells in half a head
  heads: u32,
  kv_heads: u32,
  slots: u32,       // of the cache
  span: u32,        // PAIRED: from the position of a token to its slot
  width: f32,       // elements in a row of x
  eps: f32,
  parts: vec4<u32>, // units of each of the adjacent weights
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<CX>;
#unroll P WEIGHTS
@group(0) @binding(2$P) var<storage, read> w$P: array<CW>;
#end
#if BIAS
@group(0) @binding(32) var<storage, read> bias: array<TBIAS>;
#endif
#if ROTARY
@group(0) @binding(33) var<storage, read> frequencies: array<f32>;
#import "rope/angle.wgsl"
#endif
#if PAIRED
@group(0) @binding(35) var<storage, read> places: array<i32>; // positions, then slots
@group(0) @binding(36) var<storage, read_write> key_cache: array<CCACHE>;
@group(0) @binding(37) var<storage, read_write> value_cache: array<CCACHE>;
#endif
#if RESIDUAL
@group(0) @binding(38) var<storage, read> residual: array<CRESIDUAL>;
#endif
#if CHOSEN
@group(0) @binding(39) var<storage, read> chosen: array<i32>;
#endif
@group(0) @binding(40) var<storage, read_write> out: array<COUT>;
#if !PAIRED
#import "elementwise/functions.wgsl"
#endif

struct Unit {
  row: u32,     // first of TM
  part: u32,    // which weight
  index: u32,   // among the units of all parts
  a: u32,       // columns of its weight
  b: u32,
  inside: bool,
}

/// The unit of a worker, of UNITS in this workgroup; one outside repeats the last one inside and is not stored.
fn locate(number: u32, worker: u32) -> Unit {
  var unit: Unit;
  unit.row = number / params.tiles * TM;
  var tile = number % params.tiles;
  var before = 0u;
#if PARTS == 3
  for (; unit.part < 2u; unit.part++) {
    let count = params.parts[unit.part];
    let tiles = (count + UNITS - 1u) / UNITS;
    if (tile < tiles) { break; }
    tile -= tiles;
    before += count;
  }
#endif
  let count = params.parts[unit.part];
  let own = tile * UNITS + worker;
  unit.inside = own < count;
  let u = min(own, count - 1u);
  unit.index = before + u;
#if PAIRED
  unit.a = (u / params.half * 2u * params.half + u % params.half) * W;
  unit.b = unit.a + params.half * W;
#else
#if GATED
  unit.a = u * W;
  unit.b = unit.a;
#else
  unit.a = u * 2u * W;
  unit.b = unit.a + W;
#endif
#endif
  return unit;
}

/// Where a row of x begins; rows outside repeat the last one.
fn row_start(row: u32) -> u32 {
  let inside = min(row, params.rows - 1u);
#if CHOSEN
  return u32(chosen[inside]) * params.cells;
#else
  return inside * params.cells;
#endif
}

#import "fused_linear/norm.wgsl"

#if BIAS
/// The biases of a cell of columns.
fn biases(column: u32) -> V {
#if W == 4
  let at = min(vec4u(column) + vec4u(0, 1, 2, 3), vec4u(params.columns - 1u));
  return V(f32(bias[at.x]), f32(bias[at.y]), f32(bias[at.z]), f32(bias[at.w]));
#else
  return f32(bias[min(column, params.columns - 1u)]);
#endif
}
#endif

/// ACTIVATION: 0 none, 1 GELU, 2 GELU by tanh.
fn activate(y: V) -> V {
#if ACTIVATION == 1
  return 0.5 * y * (1.0 + erf(y * 0.7071067811865476));
#else
#if ACTIVATION == 2
  return 0.5 * y * (1.0 + tanh_safe(0.7978845608028654 * (y + 0.044715 * y * y * y)));
#else
  return y;
#endif
#endif
}

#if !PAIRED
/// Stores a cell of the result; columns outside are dropped.
fn put(row: u32, column: u32, y: V) {
  if (column >= params.columns) { return; }
  let at = row * params.columns + column;
#if WHOLE
#if RESIDUAL
  out[at / W] = COUT(y + V(residual[at / W]));
#else
  out[at / W] = COUT(y);
#endif
#else
  for (var i = 0u; i < min(W, params.columns - column); i++) {
#if RESIDUAL
    out[at + i] = COUT(y[i] + f32(residual[at + i]));
#else
    out[at + i] = COUT(y[i]);
#endif
  }
#endif
}

fn finish(row: u32, unit: Unit, a: V, b: V) {
#if GATED
  put(row, unit.a, a * sigmoid(a) * b);
#else
#if BIAS
  put(row, unit.a, activate(a + biases(unit.a)));
  put(row, unit.b, activate(b + biases(unit.b)));
#else
  put(row, unit.a, activate(a));
  put(row, unit.b, activate(b));
#endif
#endif
}
#else

/// Queries go on, keys and values to the token's slot of the cache, queries and keys turned by the token's position.
fn finish(row: u32, unit: Unit, sum_a: V, sum_b: V) {
  var a = sum_a;
  var b = sum_b;
#if BIAS
  a += biases(unit.a);
  b += biases(unit.b);
#endif
  let head = unit.index / params.half;
  let cell = unit.index % params.half;
#if ROTARY
  if (head < params.heads + params.kv_heads) {
    let f = cell * W;
#if W == 4
    let turned = rotation(places[row], vec4f(frequencies[f], frequencies[f + 1u], frequencies[f + 2u], frequencies[f + 3u]));
    let cosine = turned[0];
    let sine = turned[1];
#else
    let turned = rotation(places[row], vec4f(frequencies[f]));
    let cosine = turned[0].x;
    let sine = turned[1].x;
#endif
    let old = a;
    a = old * cosine - b * sine;
    b = b * cosine + old * sine;
  }
#endif
  if (head < params.heads) {
    let at = (row * params.heads + head) * 2u * params.half + cell;
    out[at] = COUT(a);
    out[at + params.half] = COUT(b);
    return;
  }
  let slot = places[params.span + row];
  if (slot < 0 || u32(slot) >= params.slots) { return; }
  let kv_head = (head - params.heads) % params.kv_heads;
  let at = (u32(slot) * params.kv_heads + kv_head) * 2u * params.half + cell;
  if (head < params.heads + params.kv_heads) {
    key_cache[at] = CCACHE(a);
    key_cache[at + params.half] = CCACHE(b);
  } else {
    value_cache[at] = CCACHE(a);
    value_cache[at + params.half] = CCACHE(b);
  }
}
#endif
