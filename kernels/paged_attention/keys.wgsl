// For processors. A subgroup (one thread where there are none) takes one token and GROUPED of its query heads, which share a
// key head. Every lane walks its own keys (positions lane, lane + LANES, ...) with a softmax of its own, and the lanes join
// at the end: no lane waits for another in the loop, and a key is loaded once for all the heads. The order of summation
// depends on the token's position alone: not on the batch, nor on whether the token came by prefill or decode.
struct Params {
  kv_heads: u32,
  splits: u32,      // workgroups for each key head
  first: u32,       // token at which this dispatch begins
  blocks: u32,      // entries of a block table row
  table_rows: u32,
  cache_blocks: u32,
  scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<vec4<T0>>;
@group(0) @binding(2) var<storage, read> key_cache: array<vec4<T1>>;
@group(0) @binding(3) var<storage, read> value_cache: array<vec4<T2>>;
@group(0) @binding(4) var<storage, read> block_table: array<i32>;
@group(0) @binding(5) var<storage, read> sequences: array<i32>;
@group(0) @binding(6) var<storage, read> positions: array<i32>;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<U0>>;

#import "elementwise/functions.wgsl"

/// Lower scores count as -infinity; finite: a lane without keys weighs exp(-huge) = 0.
const LOWEST = -1e29;

#if SG
fn across_max(x: f32) -> f32 { return subgroupMax(x); }
fn across_sum(x: f32) -> f32 { return subgroupAdd(x); }
fn across_sum4(x: vec4f) -> vec4f { return subgroupAdd(x); }
#else
fn across_max(x: f32) -> f32 { return x; }
fn across_sum(x: f32) -> f32 { return x; }
fn across_sum4(x: vec4f) -> vec4f { return x; }
#endif

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(LANE_ID) lane: u32) {
  let token = params.first + group.y;
  let kv_head = group.x / params.splits;
  let row = (token * params.kv_heads * params.splits + group.x) * HEAD_CELLS;
  let known = sequences[token] >= 0 && positions[token] >= 0;
  let end = select(0u, min(u32(positions[token]) + 1u, params.blocks * BLOCK_SIZE), known);
  let sequence = u32(max(sequences[token], 0));
  let table = sequence * params.blocks;
  // A row, a position or a block that does not exist is a mistake: the result is NaN.
  var lost = known && (sequence >= params.table_rows || u32(positions[token]) >= params.blocks * BLOCK_SIZE);
  #unroll H GROUPED
  var top$H = LOWEST;
  var total$H = 0.0;
  #unroll C CELLS
  let q$H$C = vec4f(query[row + H * CELLS + C]) * params.scale;
  var sum$H$C = vec4f();
  #end
  #end
  for (var j = lane; j < end; j += LANES) {
    let block = u32(block_table[table + j / BLOCK_SIZE]);
    lost = lost || block >= params.cache_blocks;
    let slot = block * BLOCK_SIZE + j % BLOCK_SIZE;
    let at = (slot * params.kv_heads + kv_head) * CELLS;
    #unroll C CELLS
    let key$C = vec4f(key_cache[at + C]);
    #end
    #unroll C CELLS
    let value$C = vec4f(value_cache[at + C]);
    #end
    #unroll H GROUPED
    {
      var product = vec4f();
      #unroll C CELLS
      product = fma(q$H$C, key$C, product);
      #end
      let score = (product.x + product.y) + (product.z + product.w);
      let higher = max(top$H, score);
      let keep = exp(top$H - higher);
      let weight = exp_kept(score - higher);
      top$H = higher;
      total$H = fma(total$H, keep, weight);
      #unroll C CELLS
      sum$H$C = fma(vec4f(weight), value$C, sum$H$C * keep);
      #end
    }
    #end
  }
  #unroll H GROUPED
  {
    let highest = across_max(top$H);
    let share = exp(top$H - highest);
    let all = across_sum(select(total$H * share, quiet_nan(share), lost));
    #unroll C CELLS
    {
      let y = select(across_sum4(sum$H$C * share) * (1.0 / all), vec4f(), all == 0.0);
      if (lane == 0u) { out[row + H * CELLS + C] = vec4<U0>(y); }
    }
    #end
  }
  #end
}
