// Extents that the attention kernels for matrix units share. SUBGROUPS, BLOCKS (row blocks of a subgroup), WALK (keys or
// queries taken at a time), PARTS (threads that share a row), VECTORS (of four scores a thread has of a row) and DIM_K,
// DIM_N, WALK_K, WALK_N, CHUNKS, CHUNK_N (how many matrices an extent holds) come from matrix.ts.
#import "matrix_units/units.wgsl"

const SUB_ROWS = BLOCKS * MM;
const ROWS = SUBGROUPS * SUB_ROWS;
const THREADS = SUBGROUPS * SG;

// Lines of panels, of weights and of scores, in elements; the padding keeps neighbouring rows in different banks.
const LINE = HEAD_DIM + 8;
const WEIGHT_LINE = WALK + 8;
const SCORE_LINE = WALK + 4;

/// Results leave in chunks of columns as wide as the scores.
const CHUNK_LINE = CHUNK_N * MN / 4;

/// Which of four keys from j the query may look at; false beyond the last key.
fn seen4(batch: u32, head: u32, i: u32, j: u32) -> vec4<bool> {
  return vec4<bool>(
    seen(batch, head, i, j),
    seen(batch, head, i, j + 1),
    seen(batch, head, i, j + 2),
    seen(batch, head, i, j + 3),
  );
}

fn seen(batch: u32, head: u32, i: u32, j: u32) -> bool {
  return i < params.queries && j < params.keys
    && visible(batch, head, min(i, params.queries - 1), min(j, params.keys - 1));
}
