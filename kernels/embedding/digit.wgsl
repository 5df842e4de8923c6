// Shared by the steps of a stable radix sort of tokens by id, eight bits a round, in blocks of positions. Nobody else
// counts what a thread counts: no atomics, so the order of equal ids is the order of tokens, always.
struct Params { tokens: u32, block: u32, blocks: u32, shift: u32, vocabulary: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<T1>;
#if !FIRST
@group(0) @binding(2) var<storage, read> order: array<u32>;
#endif

/// The token at a position of the order so far.
fn tokenAt(position: u32) -> u32 {
#if FIRST
  return position;
#else
  return order[position];
#endif
}

/// The current digit of a token's id; ids outside the table sort behind it.
fn digitOf(token: u32) -> u32 {
  return (min(u32(ids[token]), params.vocabulary) >> params.shift) & 255u;
}
