// The derivatives of attention on matrix units. One source for both kernels, which differ in who stays and who walks:
// for dQ a workgroup keeps ROWS queries and walks the keys, for dK and dV (KEYS_STAY) it keeps ROWS keys and walks the
// queries of every head that reads them, in order. Each recomputes the scores and the derivatives of the weights
// (Dao et al. 2022, section 3.1), lets threads turn them into f16 weights and differences, and multiplies again.
#import "attention/layout.wgsl"
#import "attention/matrix_layout.wgsl"

// The walkers: keys and values, or queries and the derivatives of their results.
const FIRST_AT = 0;
const SECOND_AT = WALK * LINE;
const CHANGES_AT = 2 * WALK * LINE;
const WEIGHTS_AT = CHANGES_AT + ROWS * WEIGHT_LINE;
#if KEYS_STAY
const STAGED = max(WEIGHTS_AT + ROWS * WEIGHT_LINE, 2 * ROWS * LINE);
var<workgroup> walking_stats: array<vec2f, WALK>;
#else
const STAGED = max(WEIGHTS_AT, 2 * ROWS * LINE);
#endif
var<workgroup> doubtful: array<atomic<u32>, ROWS>;
const ALONG_AT = ROWS * SCORE_LINE;
const DRAINED = 2 * ROWS * SCORE_LINE;

fn load_query(batch: u32, head: u32, i: u32, c: u32) -> vec4<Half> {
  return vec4<Half>(query[query_at(batch, head, min(i, params.queries - 1)) / 4 + c]);
}

fn load_grad(batch: u32, head: u32, i: u32, c: u32) -> vec4<Half> {
  return vec4<Half>(grad[grad_at(batch, head, min(i, params.queries - 1)) / 4 + c]);
}

fn load_key(batch: u32, kv_head: u32, j: u32, c: u32) -> vec4<Half> {
  return vec4<Half>(key[key_at(batch, kv_head, min(j, params.keys - 1)) / 4 + c]);
}

fn load_value(batch: u32, kv_head: u32, j: u32, c: u32) -> vec4<Half> {
  return vec4<Half>(value[value_at(batch, kv_head, min(j, params.keys - 1)) / 4 + c]);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  start_matrices(lane);
  let first = group.x * ROWS;
  let batch = group.z;
  let strip = subgroup * SUB_ROWS;
  let mine = strip + lane / PARTS;
  let part = lane % PARTS;

  for (var e = thread; e < ROWS * HEAD_DIM4; e += THREADS) {
    let n = first + e / HEAD_DIM4;
    let to = e / HEAD_DIM4 * LINE + e % HEAD_DIM4 * 4;
#if KEYS_STAY
    stage4(to, load_key(batch, group.y, n, e % HEAD_DIM4));
    stage4(ROWS * LINE + to, load_value(batch, group.y, n, e % HEAD_DIM4));
#else
    stage4(to, load_query(batch, group.y, n, e % HEAD_DIM4));
    stage4(ROWS * LINE + to, load_grad(batch, group.y, n, e % HEAD_DIM4));
#endif
  }
  workgroupBarrier();
  var own: array<Left, BLOCKS * DIM_K>;
  var own_second: array<Left, BLOCKS * DIM_K>;
  #unroll R BLOCKS
  #unroll S DIM_K
  own[R * DIM_K + S] = load_left((strip + R * MM) * LINE + S * MK, LINE);
  own_second[R * DIM_K + S] = load_left((ROWS + strip + R * MM) * LINE + S * MK, LINE);
  #end
  #end
  var change: array<Result, BLOCKS * DIM_N>;
  // A sum that NaN leaves a trace in. Rows with one are marked for the plain kernels.
  var trace = 0.0;
#if KEYS_STAY
  var value_change: array<Result, BLOCKS * DIM_N>;
  let kv_head = group.y;
  // Queries before the first key of the workgroup see none of its keys.
  let start = select(0u, first, params.causal != 0);
  let end = params.queries;
  for (var head = kv_head * params.group; head < (kv_head + 1) * params.group; head++) {
#else
  let head = group.y;
  let kv_head = head / params.group;
  let row = stats[(batch * params.heads + head) * params.queries + min(first + mine, params.queries - 1)];
  let start = 0u;
  let end = select(params.keys, min(params.keys, first + ROWS), params.causal != 0);
  {
#endif
  for (var w = start; w < end; w += WALK) {
    workgroupBarrier();
    for (var e = thread; e < WALK * HEAD_DIM4; e += THREADS) {
      let n = w + e / HEAD_DIM4;
      let to = e / HEAD_DIM4 * LINE + e % HEAD_DIM4 * 4;
#if KEYS_STAY
      stage4(FIRST_AT + to, load_query(batch, head, n, e % HEAD_DIM4));
      stage4(SECOND_AT + to, load_grad(batch, head, n, e % HEAD_DIM4));
#else
      stage4(FIRST_AT + to, load_key(batch, kv_head, n, e % HEAD_DIM4));
      stage4(SECOND_AT + to, load_value(batch, kv_head, n, e % HEAD_DIM4));
#endif
    }
#if KEYS_STAY
    for (var e = thread; e < WALK; e += THREADS) {
      walking_stats[e] = stats[(batch * params.heads + head) * params.queries + min(w + e, params.queries - 1)];
    }
#endif
    workgroupBarrier();

    #unroll J WALK_N
    {
      var score = array<Result, BLOCKS>();
      var along = array<Result, BLOCKS>();
      #unroll S DIM_K
      {
        let x = load_right_turned(FIRST_AT + J * MN * LINE + S * MK, LINE);
        let y = load_right_turned(SECOND_AT + J * MN * LINE + S * MK, LINE);
        #unroll R BLOCKS
        score[R] = multiply(own[R * DIM_K + S], x, score[R]);
        along[R] = multiply(own_second[R * DIM_K + S], y, along[R]);
        #end
      }
      #end
      #unroll R BLOCKS
      store_result(score[R], (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
      store_result(along[R], ALONG_AT + (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
      #end
    }
    #end
    workgroupBarrier();

#if KEYS_STAY
    let edge = PAIRS == 1 || w + WALK > params.queries || first + ROWS > params.keys
      || (params.causal != 0 && w < first + ROWS);
#else
    let edge = PAIRS == 1 || w + WALK > params.keys || first + ROWS > params.queries
      || (params.causal != 0 && w + WALK > first);
#endif
    for (var column = part * 4; column < WALK; column += PARTS * 4) {
      let score = params.scale * drained4(mine * SCORE_LINE + column);
      let along = drained4(ALONG_AT + mine * SCORE_LINE + column);
#if KEYS_STAY
      let a = walking_stats[column];
      let b = walking_stats[column + 1];
      let c = walking_stats[column + 2];
      let d = walking_stats[column + 3];
      let lse = vec4f(a.x, b.x, c.x, d.x);
      let delta = vec4f(a.y, b.y, c.y, d.y);
#else
      let lse = vec4f(row.x);
      let delta = vec4f(row.y);
#endif
      trace += across(score - lse);
      var weight = exp(score - lse);
      if (edge) {
#if KEYS_STAY
        let i = w + column;
        let j = first + mine;
        let shown = vec4<bool>(
          seen(batch, head, i, j),
          seen(batch, head, i + 1, j),
          seen(batch, head, i + 2, j),
          seen(batch, head, i + 3, j),
        );
#else
        let shown = seen4(batch, head, first + mine, w + column);
#endif
        weight = select(vec4f(), weight, shown);
      }
      stage4(CHANGES_AT + mine * WEIGHT_LINE + column, vec4<Half>(weight * (along - delta)));
#if KEYS_STAY
      stage4(WEIGHTS_AT + mine * WEIGHT_LINE + column, vec4<Half>(weight));
#endif
    }
    workgroupBarrier();

    #unroll S WALK_K
    {
      var x: array<Left, BLOCKS>;
#if KEYS_STAY
      var y: array<Left, BLOCKS>;
#endif
      #unroll R BLOCKS
      x[R] = load_left(CHANGES_AT + (strip + R * MM) * WEIGHT_LINE + S * MK, WEIGHT_LINE);
#if KEYS_STAY
      y[R] = load_left(WEIGHTS_AT + (strip + R * MM) * WEIGHT_LINE + S * MK, WEIGHT_LINE);
#endif
      #end
      #unroll J DIM_N
      {
        let walker = load_right(FIRST_AT + S * MK * LINE + J * MN, LINE);
#if KEYS_STAY
        let second = load_right(SECOND_AT + S * MK * LINE + J * MN, LINE);
#endif
        #unroll R BLOCKS
        change[R * DIM_N + J] = multiply(x[R], walker, change[R * DIM_N + J]);
#if KEYS_STAY
        value_change[R * DIM_N + J] = multiply(y[R], second, value_change[R * DIM_N + J]);
#endif
        #end
      }
      #end
    }
    #end
  }
  }

  if (!is_finite(trace)) { atomicStore(&doubtful[mine], 1); }
  #unroll H CHUNKS
  {
    workgroupBarrier();
    #unroll R BLOCKS
    #unroll J CHUNK_N
    store_result(change[R * DIM_N + H * CHUNK_N + J], (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
#if KEYS_STAY
    store_result(value_change[R * DIM_N + H * CHUNK_N + J], ALONG_AT + (strip + R * MM) * SCORE_LINE + J * MN, SCORE_LINE);
#endif
    #end
    #end
    workgroupBarrier();
    for (var v = lane; v < SUB_ROWS * CHUNK_LINE; v += SG) {
      let r = strip + v / CHUNK_LINE;
      let c = v % CHUNK_LINE;
      let x = params.scale * drained4(r * SCORE_LINE + c * 4);
      var check = across(x);
#if KEYS_STAY
      let y = drained4(ALONG_AT + r * SCORE_LINE + c * 4);
      check += across(y);
      if (first + r < params.keys) {
        let kv_heads = params.heads / params.group;
        let o = ((batch * params.keys + first + r) * kv_heads + kv_head) * HEAD_DIM4 + H * CHUNK_LINE + c;
        dk[o] = U0v(x);
        dv[o] = U0v(y);
      }
#else
      if (first + r < params.queries) {
        let o = ((batch * params.queries + first + r) * params.heads + head) * HEAD_DIM4 + H * CHUNK_LINE + c;
        dq[o] = U0v(x);
      }
#endif
      if (!is_finite(check)) { atomicStore(&doubtful[r], 1); }
    }
  }
  #end
  storageBarrier();
  workgroupBarrier();
  for (var r = thread; r < ROWS; r += THREADS) {
    if (atomicLoad(&doubtful[r]) == 0) { continue; }
#if KEYS_STAY
    if (first + r < params.keys) {
      dk[((batch * params.keys + first + r) * (params.heads / params.group) + kv_head) * HEAD_DIM4] = U0v(vec4f(quiet_nan(trace)));
    }
#else
    if (first + r < params.queries) {
      dq[((batch * params.queries + first + r) * params.heads + head) * HEAD_DIM4] = U0v(vec4f(quiet_nan(trace)));
    }
#endif
  }
}
