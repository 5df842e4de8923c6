// One subgroup (one thread where there are none) takes one query head of one token and one chunk of CHUNK positions of its
// sequence. Lanes take every SG-th key and meet once, at the chunk's end. Which keys are summed in which order depends on
// the token's position only: never on the batch, nor on whether the token came by prefill or decode.
struct Params {
  heads: u32,
  kv_heads: u32,
  group: u32,       // query heads that share a key head
  blocks: u32,      // entries of a block table row
  chunks: u32,      // chunks that a whole row would have
  scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<CELL0>;
@group(0) @binding(2) var<storage, read> key_cache: array<CELL1>;
@group(0) @binding(3) var<storage, read> value_cache: array<CELL2>;
@group(0) @binding(4) var<storage, read> block_table: array<i32>;
@group(0) @binding(5) var<storage, read> sequences: array<i32>;
@group(0) @binding(6) var<storage, read> positions: array<i32>;
#if SINGLE
@group(0) @binding(7) var<storage, read_write> out: array<OUT_CELL>;
#else
@group(0) @binding(8) var<storage, read_write> partial: array<CELL>;
@group(0) @binding(9) var<storage, read_write> stats: array<vec2<f32>>;
#endif

/// Below every score: lanes without a key weigh exp(-huge) = 0.
const LOWEST = -1e29;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x % params.heads;
  let chunk = group.x / params.heads;
  let token = group.y;
  let row = token * params.heads + head;
  let sequence = sequences[token];
  let end = select(0u, min(u32(positions[token]) + 1u, params.blocks * BLOCK_SIZE), sequence >= 0 && positions[token] >= 0);
#if SINGLE
  if (end == 0u) {
    for (var c = lane; c < CELLS; c += LANES) { out[row * CELLS + c] = OUT_CELL(); }
    return;
  }
#else
  if (chunk * CHUNK >= end) { return; }
#endif
  var q: array<CELL, CELLS>;
  var sum: array<CELL, CELLS>;
#unroll C CELLS
  q[C] = CELL(query[row * CELLS + C]) * params.scale;
#end
  var top = LOWEST;
  var total = 0.0;
  let kv_head = head / params.group;
  let table = u32(sequence) * params.blocks;
  for (var j = chunk * CHUNK + lane; j < min(end, chunk * CHUNK + CHUNK); j += LANES) {
    let slot = u32(block_table[table + j / BLOCK_SIZE]) * BLOCK_SIZE + j % BLOCK_SIZE;
    let at = (slot * params.kv_heads + kv_head) * CELLS;
    var product = CELL();
#unroll C CELLS
    product = fma(q[C], CELL(key_cache[at + C]), product);
#end
#if VECTOR
    let score = (product.x + product.y) + (product.z + product.w);
#else
    let score = product;
#endif
    let higher = max(top, score);
    let keep = exp(top - higher);
    let weight = exp(score - higher);
    top = higher;
    total = fma(total, keep, weight);
#unroll C CELLS
    sum[C] = fma(CELL(weight), CELL(value_cache[at + C]), sum[C] * keep);
#end
  }
#if SG
  let highest = subgroupMax(top);
  let share = exp(top - highest);
  top = highest;
  total = subgroupAdd(total * share);
#unroll C CELLS
  sum[C] = subgroupAdd(sum[C] * share);
#end
#endif
  if (lane == 0u) {
#if SINGLE
    let norm = 1.0 / total;
#unroll C CELLS
    out[row * CELLS + C] = OUT_CELL(sum[C] * norm);
#end
#else
    let place = row * params.chunks + chunk;
    stats[place] = vec2<f32>(top, total);
#unroll C CELLS
    partial[place * CELLS + C] = sum[C];
#end
#endif
  }
}
