// What every attention kernel shares: the call's extents, where things lie, and which keys a query sees.
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
