// What every attention kernel shares: bindings, the call's extents, the layout of tensors, and which keys a query sees.
// BACKWARD kernels write dq or, with KEYS_STAY, dk and dv.
// Strides and offsets are in elements; query, key, value and grad are indexed (batch, head, position, component).
struct Params {
  query: vec4<u32>,
  key: vec4<u32>,
  value: vec4<u32>,
#if BACKWARD
  grad: vec4<u32>,
#endif
#if MASKED
  mask: vec4<u32>,
#endif
#if SEGMENTED
  segments: vec4<u32>,  // strides of batch and position, offset
#endif
  offsets: vec4<u32>,   // of query, key, value, grad
  heads: u32,
  group: u32,           // query heads that share a key head
  queries: u32,
  keys: u32,
  head_dim: u32,        // HEAD_DIM, for loops that are to stay loops: drivers unroll over constants, and compile for seconds
  causal: u32,
  mask_offset: u32,
  scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
#if BACKWARD
@group(0) @binding(1) var<storage, read> grad: array<T0v>;
#endif
@group(0) @binding(2) var<storage, read> query: array<T0v>;
@group(0) @binding(3) var<storage, read> key: array<T0v>;
@group(0) @binding(4) var<storage, read> value: array<T0v>;
#if BACKWARD
@group(0) @binding(5) var<storage, read> stats: array<vec2f>; // of each query row: log-sum-exp and delta
#endif
#if MASKED
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif
#if SEGMENTED
@group(0) @binding(7) var<storage, read> segments: array<i32>;
#endif
#if KEYS_STAY
@group(0) @binding(8) var<storage, read_write> dk: array<U0v>;
@group(0) @binding(9) var<storage, read_write> dv: array<U0v>;
#else
#if BACKWARD
@group(0) @binding(8) var<storage, read_write> dq: array<U0v>;
#else
@group(0) @binding(8) var<storage, read_write> out: array<U0v>;
@group(0) @binding(9) var<storage, read_write> lse: array<f32>;
#endif
#endif

alias V = f32;
alias VB = bool;
alias VU = u32;
#import "include/special.wgsl"

/// Adds up four numbers: NaN where one of them is.
fn across(x: vec4<f32>) -> f32 { return (x.x + x.y) + (x.z + x.w); }

/// The score of a hidden key.
const NOTHING = -1e30;
/// Above NOTHING: running maxima start here, so that a hidden key always weighs exp(-huge) = 0. Lower scores weigh as much.
const LOWEST = -1e29;

fn query_at(batch: u32, head: u32, i: u32) -> u32 {
  return params.offsets.x + batch * params.query.x + head * params.query.y + i * params.query.z;
}

fn key_at(batch: u32, head: u32, j: u32) -> u32 {
  return params.offsets.y + batch * params.key.x + head * params.key.y + j * params.key.z;
}

fn value_at(batch: u32, head: u32, j: u32) -> u32 {
  return params.offsets.z + batch * params.value.x + head * params.value.y + j * params.value.z;
}

#if BACKWARD
fn grad_at(batch: u32, head: u32, i: u32) -> u32 {
  return params.offsets.w + batch * params.grad.x + head * params.grad.y + i * params.grad.z;
}
#endif

#if SEGMENTED
fn segment_of(batch: u32, i: u32) -> i32 {
  return segments[params.segments.z + batch * params.segments.x + i * params.segments.y];
}
#endif

#if MASKED
fn mask_at(batch: u32, head: u32, i: u32, j: u32) -> u32 {
  let at = vec4<u32>(batch, head, i, j) * params.mask;
  return params.mask_offset + at.x + at.y + at.z + at.w;
}
#endif

/// Whether query i may look at key j, both inside their extents.
fn visible(batch: u32, head: u32, i: u32, j: u32) -> bool {
  var seen = params.causal == 0u || j <= i;
#if MASKED
  seen = seen && mask[mask_at(batch, head, i, j)] != 0u;
#endif
#if SEGMENTED
  seen = seen && segment_of(batch, i) == segment_of(batch, j);
#endif
  return seen;
}
