// The derivatives of attention in register tiles. One source for both kernels, which differ in who stays and who walks:
// for dQ a workgroup keeps ROWS queries and walks the keys, for dK and dV (KEYS_STAY) it keeps ROWS keys and walks the
// queries of every head that reads them, in order, so that sums have one order. Each recomputes the scores and the
// derivatives of the weights (Dao et al. 2022, section 3.1).
// A thread keeps EACH x 4 of both in registers (2 EACH + 8 loads of vec4 for 32 EACH multiply-adds: with 4 rows 16 for
// 128), and EACH rows x SHARE vectors of each result (with 4 rows of 64 components, of both dK and dV, 24 loads for 256).
// In workgroup memory wait the rows that stay (queries and derivatives of results, or keys and values, the first of them
// scaled), those that walk, and what the second product takes: weights and their derivatives.
#import "attention/layout.wgsl"
#import "attention/tiles_layout.wgsl"

var<workgroup> own: array<vec4f, ROWS * LINE>;
var<workgroup> own_second: array<vec4f, ROWS * LINE>;
var<workgroup> walkers: array<vec4f, WALK * LINE>;
var<workgroup> walkers_second: array<vec4f, WALK * LINE>;
var<workgroup> changes: array<vec4f, ROWS * WEIGHT_LINE>;
#if KEYS_STAY
var<workgroup> weights: array<vec4f, ROWS * WEIGHT_LINE>;
var<workgroup> walking_stats: array<vec2f, WALK>;
#endif

fn load_query(batch: u32, head: u32, i: u32, c: u32) -> vec4f {
  return vec4f(query[query_at(batch, head, min(i, params.queries - 1)) / 4 + c]);
}

fn load_grad(batch: u32, head: u32, i: u32, c: u32) -> vec4f {
  return vec4f(grad[grad_at(batch, head, min(i, params.queries - 1)) / 4 + c]);
}

fn load_key(batch: u32, kv_head: u32, j: u32, c: u32) -> vec4f {
  return vec4f(key[key_at(batch, kv_head, min(j, params.keys - 1)) / 4 + c]);
}

fn load_value(batch: u32, kv_head: u32, j: u32, c: u32) -> vec4f {
  return vec4f(value[value_at(batch, kv_head, min(j, params.keys - 1)) / 4 + c]);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let batch = group.z;
  let strip = thread / COLUMNS;
  let column = thread % COLUMNS;
  let cells = params.head_dim / 4;
#if KEYS_STAY
  let first = group.x * ROWS;
#else
  // The last queries see the most keys when causal, and should not be the last to start.
  let first = select(group.x, groups.x - 1 - group.x, params.causal != 0) * ROWS;
#endif

  for (var e = thread; e < ROWS * cells; e += THREADS) {
    let n = first + e / HEAD_DIM4;
    let to = e / HEAD_DIM4 * LINE + e % HEAD_DIM4;
#if KEYS_STAY
    own[to] = params.scale * load_key(batch, group.y, n, e % HEAD_DIM4);
    own_second[to] = load_value(batch, group.y, n, e % HEAD_DIM4);
#else
    own[to] = params.scale * load_query(batch, group.y, n, e % HEAD_DIM4);
    own_second[to] = load_grad(batch, group.y, n, e % HEAD_DIM4);
#endif
  }
#if SEGMENTED
  let mine = segment_range(batch, first, ROWS);
#endif
  var change: array<vec4f, EACH * SHARE>;
  // By row: a sum that NaN leaves a trace in. Rows with one are marked for the plain kernels.
  var trace: array<f32, EACH>;
#if KEYS_STAY
  var value_change: array<vec4f, EACH * SHARE>;
  let kv_head = group.y;
  // Queries before the first key of the workgroup see none of its keys. Block boundaries do not depend on ROWS, so neither
  // does the order of summation.
  let start = select(0u, first / WALK * WALK, params.causal != 0);
  let end = params.queries;
  for (var head = kv_head * params.group; head < (kv_head + 1) * params.group; head++) {
#else
  let head = group.y;
  let kv_head = head / params.group;
  // Log-sum-exp and delta of each row.
  var row: array<vec2f, EACH>;
  #unroll R EACH
  row[R] = stats[(batch * params.heads + head) * params.queries + min(first + strip + R * STRIPS, params.queries - 1)];
  #end
  let start = 0u;
  let end = select(params.keys, min(params.keys, first + ROWS), params.causal != 0);
  {
#endif
  for (var w = start; w < end; w += WALK) {
#if SEGMENTED
    // Packed sequences far apart are skipped whole; each pair is looked at below.
    let theirs = segment_range(batch, w, WALK);
    if (theirs.y < mine.x || theirs.x > mine.y) { continue; }
#endif
    workgroupBarrier();
    for (var e = thread; e < WALK * cells; e += THREADS) {
      let n = w + e / HEAD_DIM4;
      let to = e / HEAD_DIM4 * LINE + e % HEAD_DIM4;
#if KEYS_STAY
      walkers[to] = load_query(batch, head, n, e % HEAD_DIM4);
      walkers_second[to] = load_grad(batch, head, n, e % HEAD_DIM4);
#else
      walkers[to] = load_key(batch, kv_head, n, e % HEAD_DIM4);
      walkers_second[to] = load_value(batch, kv_head, n, e % HEAD_DIM4);
#endif
    }
#if KEYS_STAY
    for (var e = thread; e < WALK; e += THREADS) {
      walking_stats[e] = stats[(batch * params.heads + head) * params.queries + min(w + e, params.queries - 1)];
    }
#endif
    workgroupBarrier();

    var score = array<vec4f, EACH>();
    var along = array<vec4f, EACH>();
    for (var c = 0u; c < cells; c++) {
      let x = transpose(mat4x4f(
        walkers[column * LINE + c],
        walkers[(column + COLUMNS) * LINE + c],
        walkers[(column + 2 * COLUMNS) * LINE + c],
        walkers[(column + 3 * COLUMNS) * LINE + c],
      ));
      let y = transpose(mat4x4f(
        walkers_second[column * LINE + c],
        walkers_second[(column + COLUMNS) * LINE + c],
        walkers_second[(column + 2 * COLUMNS) * LINE + c],
        walkers_second[(column + 3 * COLUMNS) * LINE + c],
      ));
      #unroll R EACH
      score[R] = add_product(score[R], x, own[(strip + R * STRIPS) * LINE + c]);
      along[R] = add_product(along[R], y, own_second[(strip + R * STRIPS) * LINE + c]);
      #end
    }

    // Only the last walkers and the diagonal need a look at each pair.
#if KEYS_STAY
    let edge = PAIRS == 1 || w + WALK > params.queries || (params.causal != 0 && w < first + ROWS);
    let a = walking_stats[column];
    let b = walking_stats[column + COLUMNS];
    let c = walking_stats[column + 2 * COLUMNS];
    let d = walking_stats[column + 3 * COLUMNS];
    let lse = vec4f(a.x, b.x, c.x, d.x);
    let delta = vec4f(a.y, b.y, c.y, d.y);
#else
    let edge = PAIRS == 1 || w + WALK > params.keys || (params.causal != 0 && w + WALK > first);
#endif
    #unroll R EACH
    {
#if !KEYS_STAY
      let lse = row[R].x;
      let delta = row[R].y;
#endif
      let exponent = score[R] - lse;
      trace[R] += across(exponent);
      var weight = exp(exponent);
      if (edge) {
        let n = first + strip + R * STRIPS;
        #unroll K 4
        {
          let other = w + column + K * COLUMNS;
#if KEYS_STAY
          weight[K] = select(0.0, weight[K], seen(batch, head, other, n));
#else
          weight[K] = select(0.0, weight[K], seen(batch, head, n, other));
#endif
        }
        #end
      }
      let to = (strip + R * STRIPS) * WEIGHT_LINE + column;
      changes[to] = weight * (along[R] - delta);
#if KEYS_STAY
      weights[to] = weight;
#endif
    }
    #end
    workgroupBarrier();

    // Columns that begin beyond the end hold hidden walkers alone.
    let columns = min(COLUMNS, end - w);
    for (var c = 0u; c < columns; c++) {
      var x = array<vec4f, EACH>();
#if KEYS_STAY
      var y = array<vec4f, EACH>();
#endif
      #unroll R EACH
      x[R] = changes[(strip + R * STRIPS) * WEIGHT_LINE + c];
#if KEYS_STAY
      y[R] = weights[(strip + R * STRIPS) * WEIGHT_LINE + c];
#endif
      #end
      #unroll S SHARE
      {
        let at = min(column + S * COLUMNS, HEAD_DIM4 - 1);
        let walker = mat4x4f(
          walkers[c * LINE + at],
          walkers[(c + COLUMNS) * LINE + at],
          walkers[(c + 2 * COLUMNS) * LINE + at],
          walkers[(c + 3 * COLUMNS) * LINE + at],
        );
#if KEYS_STAY
        let second = mat4x4f(
          walkers_second[c * LINE + at],
          walkers_second[(c + COLUMNS) * LINE + at],
          walkers_second[(c + 2 * COLUMNS) * LINE + at],
          walkers_second[(c + 3 * COLUMNS) * LINE + at],
        );
#endif
        #unroll R EACH
        change[R * SHARE + S] = add_product(change[R * SHARE + S], walker, x[R]);
#if KEYS_STAY
        value_change[R * SHARE + S] = add_product(value_change[R * SHARE + S], second, y[R]);
#endif
        #end
      }
      #end
    }
  }
  }

  #unroll R EACH
  #unroll S SHARE
  trace[R] += across(change[R * SHARE + S]);
#if KEYS_STAY
  trace[R] += across(value_change[R * SHARE + S]);
#endif
  #end
  #end
  workgroupBarrier();
  #unroll R EACH
  changes[(strip + R * STRIPS) * WEIGHT_LINE + column] = vec4f(trace[R]);
  #end
  workgroupBarrier();
  #unroll R EACH
  {
    let n = first + strip + R * STRIPS;
    var check = 0.0;
    for (var c = 0u; c < COLUMNS; c++) { check += changes[(strip + R * STRIPS) * WEIGHT_LINE + c].x; }
    let marked = column == 0 && !is_finite(check);
    #unroll S SHARE
#if KEYS_STAY
    if (n < params.keys && column + S * COLUMNS < HEAD_DIM4) {
      let o = ((batch * params.keys + n) * (params.heads / params.group) + kv_head) * HEAD_DIM4 + column + S * COLUMNS;
      dk[o] = U0v(select(params.scale * change[R * SHARE + S], vec4f(quiet_nan(check)), marked));
      dv[o] = U0v(value_change[R * SHARE + S]);
    }
#else
    if (n < params.queries && column + S * COLUMNS < HEAD_DIM4) {
      let o = ((batch * params.queries + n) * params.heads + head) * HEAD_DIM4 + column + S * COLUMNS;
      dq[o] = U0v(select(params.scale * change[R * SHARE + S], vec4f(quiet_nan(check)), marked));
    }
#endif
    #end
  }
  #end
}
