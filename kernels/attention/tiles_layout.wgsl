// What the attention kernels in register tiles share. A workgroup owns ROWS rows (queries; for dK and dV keys) and walks
// the other side WALK rows at a time. Its threads form a grid of STRIPS by COLUMNS: a thread has the rows strip,
// strip + STRIPS, … (EACH of them), the walkers column, column + COLUMNS, … (four, the components of a vec4), and of
// results, which are HEAD_DIM4 vectors wide, the vectors column, column + COLUMNS, … (SHARE of them). EACH, STRIPS,
// COLUMNS and SHARE come from tiles.ts.
//
// Panels in workgroup memory have the layout of storage, one line of vec4 per row: the vectors run along the axis that
// is summed over for scores and along the axis of results for the second product, so nothing is ever transposed there.
// Neighbouring threads read neighbouring rows, and lines of an odd number of vec4 put these into different banks.
const ROWS = STRIPS * EACH;
const WALK = 4 * COLUMNS;
const THREADS = STRIPS * COLUMNS;
const LINE = HEAD_DIM4 | 1;
/// Lines of weights: a vector holds the four walkers of one column.
const WEIGHT_LINE = COLUMNS | 1;

/// sum + m x: 16 multiply-adds, for which a thread loads no more than x, and m once for all its rows.
fn add_product(sum: vec4f, m: mat4x4f, x: vec4f) -> vec4f {
  return fma(vec4f(x.w), m[3], fma(vec4f(x.z), m[2], fma(vec4f(x.y), m[1], fma(vec4f(x.x), m[0], sum))));
}

/// Whether query i may look at key j; false outside their extents. The same as `visible`, but without branches, so that the
/// loads of a thread's many pairs need not wait for each other.
fn seen(batch: u32, head: u32, i: u32, j: u32) -> bool {
  var shown = (i < params.queries) & (j < params.keys) & ((params.causal == 0) | (j <= i));
  let query = min(i, params.queries - 1);
  let key = min(j, params.keys - 1);
#if MASKED
  shown &= mask[mask_at(batch, head, query, key)] != 0;
#endif
#if SEGMENTED
  shown &= segment_of(batch, query) == segment_of(batch, key);
#endif
  return shown;
}

#if SEGMENTED
/// The lowest and the highest segment of so many positions. The workgroup's threads read the same and find the same, so
/// that they may pass barriers by it.
fn segment_range(batch: u32, start: u32, count: u32) -> vec2i {
  var range = vec2i(segment_of(batch, start));
  for (var n = start + 1; n < min(start + count, params.queries); n++) {
    let segment = segment_of(batch, n);
    range = vec2i(min(range.x, segment), max(range.y, segment));
  }
  return range;
}
#endif
