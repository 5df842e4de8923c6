// One subgroup (one thread where there are none) takes one query head of one token and one chunk of CHUNK positions of its
// sequence. The order of summation depends on the token's position alone: not on the batch, nor on whether the token came by
// prefill or decode.
struct Params {
  heads: u32,
  kv_heads: u32,
  group: u32,       // query heads that share a key head
  first: u32,       // token at which this dispatch begins; temporaries begin with it
  blocks: u32,      // entries of a block table row
  chunks: u32,      // chunks that a whole row would have
  table_rows: u32,
  cache_blocks: u32,
  cells: u32,       // CELLS; as a parameter it keeps the loop over it a loop, which compiles ten times as fast
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

#import "include/vec.wgsl"
#import "include/special.wgsl"

/// Lower scores count as -infinity; lanes without a key have twice that, and weigh exp(-huge) = 0.
const LOWEST = -1e29;

fn across_max(x: f32) -> f32 {
#if SG
  return subgroupMax(x);
#else
  return x;
#endif
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(LANE_ID) lane: u32) {
  let head = group.x;
  let token = params.first + group.y;
  let chunk = group.z;
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
  var sum: array<CELL, SHARE>;
  var top = LOWEST;
  var total = 0.0;
  let kv_head = head / params.group;
  let table = u32(sequence) * params.blocks;
  // A row, a position or a block that does not exist is a mistake: the result is NaN.
  var lost = u32(sequence) >= params.table_rows || u32(positions[token]) >= params.blocks * BLOCK_SIZE;
  for (var first = chunk * CHUNK; first < min(end, chunk * CHUNK + CHUNK); first += LANES) {
    // Scores: one key for each lane.
    let j = min(first + lane, end - 1u);
    let block = u32(block_table[table + j / BLOCK_SIZE]);
    lost = lost || block >= params.cache_blocks;
    let slot = block * BLOCK_SIZE + j % BLOCK_SIZE;
    let at = (slot * params.kv_heads + kv_head) * CELLS;
    var product = CELL();
    for (var c = 0u; c < params.cells; c++) {
      product = fma(CELL(query[row * CELLS + c]), CELL(key_cache[at + c]), product);
    }
#if VECTOR
    let dot = (product.x + product.y) + (product.z + product.w);
#else
    let dot = product;
#endif
    let score = select(2.0 * LOWEST, dot * params.scale, first + lane < end);
    let higher = max(top, across_max(score));
    let keep = exp(top - higher);
    let weight = exp_kept(score - higher);
    top = higher;
    total = fma(total, keep, weight);
    // Values: each lane sums its components of every key in turn.
#unroll S SHARE
    sum[S] *= keep;
#end
#unroll K LANES
    if (first + K < end) {
#if SG
      let key_weight = subgroupBroadcast(weight, K);
      let value_at = subgroupBroadcast(at, K);
#else
      let key_weight = weight;
      let value_at = at;
#endif
#unroll S SHARE
      sum[S] = fma(CELL(key_weight), CELL(value_cache[value_at + min(S * LANES + lane, CELLS - 1u)]), sum[S]);
#end
    }
#end
  }
  if (lost) { total = quiet_nan(top); }
#if SG
  total = subgroupAdd(total);
#endif
#if !SINGLE
  let place = (group.y * params.heads + head) * params.chunks + chunk;
  if (lane == 0u) { stats[place] = vec2<f32>(top, total); }
#endif
#unroll S SHARE
  if (S * LANES + lane < CELLS) {
#if SINGLE
    out[row * CELLS + S * LANES + lane] = OUT_CELL(select(sum[S] * (1.0 / total), CELL(), total == 0.0));
#else
    partial[place * CELLS + S * LANES + lane] = sum[S];
#endif
  }
#end
}
