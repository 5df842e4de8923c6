// Flash attention on matrix units: f16 operands, everything else in f32. A workgroup computes ROWS queries, a subgroup
// BLOCKS * MM of them, against WALK keys at a time. Nobody can look into the matrices of a subgroup, so scores go through
// workgroup memory to the threads that own their rows, which turn them into weights for the second product. The sums stay
// in matrices: weights are taken relative to a maximum that may lag behind by SLACK, and only when some row's maximum
// rises by more are the sums fetched and scaled. Online softmax after Dao et al. 2022, FlashAttention.
#import "attention/layout.wgsl"
#import "attention/matrix_layout.wgsl"

/// Weights grow up to exp(SLACK), 245, before sums are scaled down: far below what f16 holds.
const SLACK = 5.5;

// Weights take the place of the keys that gave them.
const KEYS_AT = 0;
const WEIGHTS_AT = 0;
const VALUES_AT = max(WALK * LINE, ROWS * WEIGHT_LINE);
const STAGED = max(VALUES_AT + WALK * LINE, ROWS * LINE);
const DRAINED = ROWS * SCORE_LINE;

var<workgroup> risen: array<u32, SUBGROUPS>;
var<workgroup> factor: array<f32, ROWS>;
var<workgroup> doubtful: array<atomic<u32>, ROWS>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  start_matrices(lane);
  // The last queries see the most keys when causal, and should not be the last to start.
  let first = select(group.x, groups.x - 1 - group.x, params.causal != 0) * ROWS;
  let head = group.y;
  let batch = group.z;
  let strip = subgroup * SUB_ROWS;
  let mine = strip + lane / PARTS;
  let part = lane % PARTS;
  let row = min(first + mine, params.queries - 1);

  for (var e = thread; e < ROWS * HEAD_DIM4; e += THREADS) {
    let i = min(first + e / HEAD_DIM4, params.queries - 1);
    let x = query[query_at(batch, head, i) / 4 + e % HEAD_DIM4];
    stage4(e / HEAD_DIM4 * LINE + e % HEAD_DIM4 * 4, vec4<Half>(x));
  }
  workgroupBarrier();
  var q: array<Left, BLOCKS * DIM_K>;
  #unroll R BLOCKS
  #unroll S DIM_K
  q[R * DIM_K + S] = load_left((strip + R * MM) * LINE + S * MK, LINE);
  #end
  #end

  var sum: array<Result, BLOCKS * DIM_N>;
  var top = LOWEST;
  var total = 0.0;
  // A sum of scores: what NaN and +infinity leave a trace in. Rows with one are marked for plain.wgsl.
  var trace = 0.0;
  let end = select(params.keys, min(params.keys, first + ROWS), params.causal != 0);
  for (var j = 0u; j < end; j += WALK) {
    workgroupBarrier();
    for (var e = thread; e < WALK * HEAD_DIM4; e += THREADS) {
      let n = min(j + e / HEAD_DIM4, params.keys - 1);
      let to = e / HEAD_DIM4 * LINE + e % HEAD_DIM4 * 4;
      stage4(KEYS_AT + to, vec4<Half>(key[key_at(batch, head / params.group, n) / 4 + e % HEAD_DIM4]));
      stage4(VALUES_AT + to, vec4<Half>(value[value_at(batch, head / params.group, n) / 4 + e % HEAD_DIM4]));
    }
    workgroupBarrier();

    #unroll J WALK_N
    {
      var score = array<Result, BLOCKS>();
      #unroll S DIM_K
      {
        let keys = load_right_turned(KEYS_AT + J * MN * LINE + S * MK, LINE);
        #unroll R BLOCKS
        score[R] = multiply(q[R * DIM_K + S], keys, score[R]);
        #end
      }
      #end
      #unroll R BLOCKS
      store_result(score[R], (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
      #end
    }
    #end
    workgroupBarrier();

    // A thread has every PARTS-th vector of the scores of its row.
    var s: array<vec4f, VECTORS>;
    let edge = PAIRS == 1 || j + WALK > params.keys || (params.causal != 0 && j + WALK > first + strip);
    var higher = LOWEST;
    #unroll V VECTORS
    {
      let column = (V * PARTS + part) * 4;
      s[V] = params.scale * drained4(mine * SCORE_LINE + column);
      if (edge) {
        s[V] = select(vec4f(NOTHING), s[V], seen4(batch, head, row, j + column));
      }
      higher = max(higher, max(max(s[V].x, s[V].y), max(s[V].z, s[V].w)));
      trace += across(s[V]);
    }
    #end
    for (var step = 1u; step < PARTS; step *= 2) {
      higher = max(higher, subgroupShuffleXor(higher, step));
    }
    let rises = higher > top + SLACK || j == 0;
    let before = top;
    top = select(top, higher, rises);
    let keep = exp(before - top);
    total *= keep;
    #unroll V VECTORS
    {
      let weight = exp(s[V] - top);
      total += dot(weight, vec4f(1));
      stage4(WEIGHTS_AT + mine * WEIGHT_LINE + (V * PARTS + part) * 4, vec4<Half>(weight));
    }
    #end
    let any = subgroupAny(rises && j > 0);
    if (lane == 0) {
      risen[subgroup] = u32(any);
    }
    let flags = workgroupUniformLoad(&risen);
    var scaled = false;
    #unroll G SUBGROUPS
    scaled = scaled || flags[G] != 0;
    #end
    if (scaled) {
      #unroll H CHUNKS
      {
        #unroll R BLOCKS
        #unroll J CHUNK_N
        store_result(sum[R * DIM_N + H * CHUNK_N + J], (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
        #end
        #end
        workgroupBarrier();
        for (var column = part * 4; column < CHUNK_N * MN; column += PARTS * 4) {
          let at = mine * SCORE_LINE + column;
          drain4(at, drained4(at) * keep);
        }
        workgroupBarrier();
        #unroll R BLOCKS
        #unroll J CHUNK_N
        sum[R * DIM_N + H * CHUNK_N + J] = load_result((strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
        #end
        #end
        workgroupBarrier();
      }
      #end
    }

    #unroll S WALK_K
    {
      var weights: array<Left, BLOCKS>;
      #unroll R BLOCKS
      weights[R] = load_left(WEIGHTS_AT + (strip + R * MM) * WEIGHT_LINE + S * MK, WEIGHT_LINE);
      #end
      #unroll J DIM_N
      {
        let values = load_right(VALUES_AT + S * MK * LINE + J * MN, LINE);
        #unroll R BLOCKS
        sum[R * DIM_N + J] = multiply(weights[R], values, sum[R * DIM_N + J]);
        #end
      }
      #end
    }
    #end
  }

  if (!is_finite(trace)) { total = quiet_nan(trace); }
  for (var step = 1u; step < PARTS; step *= 2) {
    total += subgroupShuffleXor(total, step);
  }
  if (part == 0) {
    factor[mine] = select(select(0.0, 1.0 / total, total > 0.0), total, is_nan(total));
    if (first + mine < params.queries) {
      let logarithm = select(0.0, top + log(total), total > 0.0);
      lse[(batch * params.heads + head) * params.queries + first + mine] = logarithm;
    }
  }
  #unroll H CHUNKS
  {
    workgroupBarrier();
    #unroll R BLOCKS
    #unroll J CHUNK_N
    store_result(sum[R * DIM_N + H * CHUNK_N + J], (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
    #end
    #end
    workgroupBarrier();
    for (var v = lane; v < SUB_ROWS * CHUNK_LINE; v += SG) {
      let r = strip + v / CHUNK_LINE;
      if (first + r < params.queries) {
        let o = ((batch * params.queries + first + r) * params.heads + head) * HEAD_DIM4 + H * CHUNK_LINE;
        let x = drained4(r * SCORE_LINE + v % CHUNK_LINE * 4) * factor[r];
        if (!is_finite(across(x))) { atomicStore(&doubtful[r], 1); }
        out[o + v % CHUNK_LINE] = U0v(x);
      }
    }
  }
  #end
  storageBarrier();
  workgroupBarrier();
  for (var r = thread; r < ROWS; r += THREADS) {
    if (atomicLoad(&doubtful[r]) != 0) {
      lse[(batch * params.heads + head) * params.queries + first + r] = quiet_nan(f32(r));
    }
  }
}
