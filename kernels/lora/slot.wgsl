/// The first row of an adapter in the pool, and its rank: 0 for a row without one.
fn spanOf(slot: i32) -> vec2<u32> {
  if (slot < 0 || slot >= i32(params.adapters)) {
    return vec2<u32>(0u);
  }
  return vec2<u32>(spans[slot]);
}
