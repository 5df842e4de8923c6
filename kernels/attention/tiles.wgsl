// Flash attention in register tiles, in f32 whatever the storage, for GPUs without matrix units, and for f32.
// A workgroup computes ROWS queries against WALK keys at a time. A thread keeps EACH x 4 scores in registers: four
// components of them are EACH + 4 loads of vec4 and 16 EACH multiply-adds, with 8 rows 12 loads for 128. It also keeps
// EACH rows x SHARE vectors of the result: four keys are EACH + 4 SHARE loads and 16 EACH SHARE multiply-adds, with 8 rows
// of 64 components 16 loads for 256. Loads from workgroup memory are what such kernels wait for, and a thread that owned a
// whole query would do one for every four multiply-adds.
// In workgroup memory wait the scaled queries, the keys and then in their place the values, the weights, and what the
// columns of threads found as the highest score of each row. Rows are reduced through it as well: the barrier that lets
// values replace keys is needed anyway, so this costs none and takes no subgroups. Sums of weights stay with the threads
// until the end. Online softmax after Dao et al. 2022, FlashAttention.
#import "attention/layout.wgsl"
#import "attention/tiles_layout.wgsl"

var<workgroup> queries: array<vec4f, ROWS * LINE>;
var<workgroup> walkers: array<vec4f, WALK * LINE>;
var<workgroup> weights: array<vec4f, ROWS * WEIGHT_LINE>;
/// By column, strip and four of its rows: the highest scores, at the end the sums of weights.
var<workgroup> shares: array<vec4f, COLUMNS * STRIPS * EACH4>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  // The last queries see the most keys when causal, and should not be the last to start.
  let first = select(group.x, groups.x - 1 - group.x, params.causal != 0) * ROWS;
  let head = group.y;
  let kv_head = head / params.group;
  let batch = group.z;
  let strip = thread / COLUMNS;
  let column = thread % COLUMNS;
  let cells = params.head_dim / 4;

  for (var e = thread; e < ROWS * cells; e += THREADS) {
    let i = min(first + e / HEAD_DIM4, params.queries - 1);
    let x = vec4f(query[query_at(batch, head, i) / 4 + e % HEAD_DIM4]);
    queries[e / HEAD_DIM4 * LINE + e % HEAD_DIM4] = params.scale * x;
  }
  var sum: array<vec4f, EACH * SHARE>;
  // By row, four of them a vector.
  var top: array<vec4f, EACH4>;
  var total: array<vec4f, EACH4>;
  // Sums of scores: what NaN and +infinity leave a trace in. Rows with one are marked for plain.wgsl.
  var trace: array<vec4f, EACH4>;
  #unroll V EACH4
  top[V] = vec4f(LOWEST);
  #end

  let end = select(params.keys, min(params.keys, first + ROWS), params.causal != 0);
#if SEGMENTED
  let mine = segment_range(batch, first, ROWS);
#endif
  for (var j = 0u; j < end; j += WALK) {
#if SEGMENTED
    // Packed sequences far apart are skipped whole; each pair is looked at below.
    let theirs = segment_range(batch, j, WALK);
    if (theirs.y < mine.x || theirs.x > mine.y) { continue; }
#endif
    workgroupBarrier();
    for (var e = thread; e < WALK * cells; e += THREADS) {
      let n = min(j + e / HEAD_DIM4, params.keys - 1);
      walkers[e / HEAD_DIM4 * LINE + e % HEAD_DIM4] = vec4f(key[key_at(batch, kv_head, n) / 4 + e % HEAD_DIM4]);
    }
    workgroupBarrier();

    var score = array<vec4f, EACH>();
    for (var c = 0u; c < cells; c++) {
      let keys = transpose(mat4x4f(
        walkers[column * LINE + c],
        walkers[(column + COLUMNS) * LINE + c],
        walkers[(column + 2 * COLUMNS) * LINE + c],
        walkers[(column + 3 * COLUMNS) * LINE + c],
      ));
      #unroll R EACH
      score[R] = add_product(score[R], keys, queries[(strip + R * STRIPS) * LINE + c]);
      #end
    }
    // Only the last keys and the diagonal need a look at each pair.
    if (PAIRS == 1 || j + WALK > params.keys || (params.causal != 0 && j + WALK > first)) {
      #unroll R EACH
      {
        let i = first + strip + R * STRIPS;
        #unroll K 4
        score[R][K] = select(NOTHING, score[R][K], seen(batch, head, i, j + column + K * COLUMNS));
        #end
      }
      #end
    }
    var highest = array<vec4f, EACH4>();
    #unroll R EACH
    highest[R / 4][R % 4] = max(max(score[R].x, score[R].y), max(score[R].z, score[R].w));
    trace[R / 4][R % 4] += across(score[R]);
    #end
    #unroll V EACH4
    shares[(column * STRIPS + strip) * EACH4 + V] = highest[V];
    #end
    workgroupBarrier();

    for (var e = thread; e < WALK * cells; e += THREADS) {
      let n = min(j + e / HEAD_DIM4, params.keys - 1);
      walkers[e / HEAD_DIM4 * LINE + e % HEAD_DIM4] = vec4f(value[value_at(batch, kv_head, n) / 4 + e % HEAD_DIM4]);
    }
    #unroll V EACH4
    {
      let before = top[V];
      #unroll C COLUMNS
      top[V] = max(top[V], shares[(C * STRIPS + strip) * EACH4 + V]);
      #end
      // From here on what earlier sums are multiplied with.
      highest[V] = exp(before - top[V]);
      total[V] *= highest[V];
    }
    #end
    #unroll R EACH
    {
      let weight = exp(score[R] - top[R / 4][R % 4]);
      total[R / 4][R % 4] += (weight.x + weight.y) + (weight.z + weight.w);
      weights[(strip + R * STRIPS) * WEIGHT_LINE + column] = weight;
      #unroll S SHARE
      sum[R * SHARE + S] *= highest[R / 4][R % 4];
      #end
    }
    #end
    workgroupBarrier();

    // Columns that begin beyond the end hold hidden keys alone.
    let columns = min(COLUMNS, end - j);
    for (var c = 0u; c < columns; c++) {
      var weight = array<vec4f, EACH>();
      #unroll R EACH
      weight[R] = weights[(strip + R * STRIPS) * WEIGHT_LINE + c];
      #end
      #unroll S SHARE
      {
        let at = min(column + S * COLUMNS, HEAD_DIM4 - 1);
        let values = mat4x4f(
          walkers[c * LINE + at],
          walkers[(c + COLUMNS) * LINE + at],
          walkers[(c + 2 * COLUMNS) * LINE + at],
          walkers[(c + 3 * COLUMNS) * LINE + at],
        );
        #unroll R EACH
        sum[R * SHARE + S] = add_product(sum[R * SHARE + S], values, weight[R]);
        #end
      }
      #end
    }
  }

  // Such a trace, or one in a thread's part of the result, makes the row's total NaN.
  #unroll R EACH
  #unroll S SHARE
  trace[R / 4][R % 4] += across(sum[R * SHARE + S]);
  #end
  if (!is_finite(trace[R / 4][R % 4])) { total[R / 4][R % 4] = quiet_nan(trace[R / 4][R % 4]); }
  #end
  // All have read the last highest scores, two barriers ago.
  #unroll V EACH4
  shares[(column * STRIPS + strip) * EACH4 + V] = total[V];
  #end
  workgroupBarrier();
  #unroll V EACH4
  total[V] = shares[strip * EACH4 + V];
  for (var c = 1u; c < COLUMNS; c++) { total[V] += shares[(c * STRIPS + strip) * EACH4 + V]; }
  #end
  #unroll R EACH
  {
    let i = first + strip + R * STRIPS;
    let all = total[R / 4][R % 4];
    let norm = select(0.0, 1 / all, all > 0);
    if (i < params.queries) {
      let o = ((batch * params.queries + i) * params.heads + head) * HEAD_DIM4 + column;
      #unroll S SHARE
      if (column + S * COLUMNS < HEAD_DIM4) { out[o + S * COLUMNS] = U0v(sum[R * SHARE + S] * norm); }
      #end
      if (column == 0) {
        let logarithm = select(select(0.0, top[R / 4][R % 4] + log(all), all > 0), all, is_nan(all));
        lse[(batch * params.heads + head) * params.queries + i] = logarithm;
      }
    }
  }
  #end
}
