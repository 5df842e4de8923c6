// The kernel for matrix units, f16 with sums in f32. A workgroup of DOWN by ACROSS subgroups computes BM by BN elements
// of C, a subgroup RM by RN matrices of them. Panels of BK columns of A and BK rows of B wait in workgroup memory in the
// order of storage, since loading a matrix transposes it at no cost; rows are padded by PAD against bank
// conflicts. While a panel is multiplied, the next is on its way into registers. With STAGES 2 panels alternate between
// two places, which saves one barrier per panel. Rows and columns outside C repeat the last ones and are not stored.
#import "matmul/operands.wgsl"
#import "matmul/epilogue.wgsl"
#import "matrix_units/units.wgsl"

const SUB_ROWS = RM * MM;
const SUB_COLUMNS = RN * MN;
const BM = DOWN * SUB_ROWS;
const BN = ACROSS * SUB_COLUMNS;
const THREADS = DOWN * ACROSS * SG;

#if A_MODE == 1
const A_STRIDE = BM + PAD;
const A_SIZE = BK * A_STRIDE;
const A_LINE = BM / 4;
#else
const A_STRIDE = BK + PAD;
const A_SIZE = BM * A_STRIDE;
const A_LINE = BK / 4;
#endif
#if B_MODE == 0
const B_STRIDE = BN + PAD;
const B_SIZE = BK * B_STRIDE;
const B_LINE = BN / 4;
#else
const B_STRIDE = BK + PAD;
const B_SIZE = BN * B_STRIDE;
const B_LINE = BK / 4;
#endif
const PANELS = A_SIZE + B_SIZE;
const STAGED = STAGES * PANELS;

// A subgroup hands its sums to its threads DRAIN_N matrices of a row at a time.
const DRAIN_COLUMNS = DRAIN_N * MN;
const DRAIN_STRIDE = DRAIN_COLUMNS + 4;
const DRAIN_SIZE = MM * DRAIN_STRIDE;
const DRAINED = DOWN * ACROSS * DRAIN_SIZE;
const DRAIN_LINE = DRAIN_COLUMNS / 4;

const A_VECTORS = BM * BK / 4;
const B_VECTORS = BN * BK / 4;

/// Vector number v of the panel of A at k: lines of A_LINE vectors, along k or along m as memory runs.
fn fetchA(v: u32, tile: Tile, k: u32, w: Walk) -> vec4<T0> {
  let number = min(v, A_VECTORS - 1u);
#if A_MODE == 1
  let at_k = k + number / A_LINE;
  let row = min(tile.row * BM + number % A_LINE * 4, (params.M - 1) / 4 * 4);
  let x = rawA(tile.aBase + row, at_k, w);
#if EDGE_K
  return select(vec4<T0>(), x, at_k < w.kEnd);
#else
  return x;
#endif
#else
  let at_k = k + number % A_LINE * 4;
  let row = min(tile.row * BM + number / A_LINE, params.M - 1);
  let x = rawA(tile.aBase + row * params.aRow, at_k, w);
#if EDGE_K
  return select(vec4<T0>(), x, vec4u(at_k, at_k + 1, at_k + 2, at_k + 3) < vec4u(w.kEnd));
#else
  return x;
#endif
#endif
}

fn fetchB(v: u32, tile: Tile, k: u32, w: Walk) -> vec4<T1> {
  let number = min(v, B_VECTORS - 1u);
#if B_MODE == 0
  let at_k = k + number / B_LINE;
  let column = min(tile.column * BN + number % B_LINE * 4, (params.N - 1) / 4 * 4);
  let x = rawB(tile.bBase + column, at_k, w);
#if EDGE_K
  return select(vec4<T1>(), x, at_k < w.kEnd);
#else
  return x;
#endif
#else
  let at_k = k + number % B_LINE * 4;
  let column = min(tile.column * BN + number / B_LINE, params.N - 1);
  let x = rawB(tile.bBase + column * params.bCol, at_k, w);
#if EDGE_K
  return select(vec4<T1>(), x, vec4u(at_k, at_k + 1, at_k + 2, at_k + 3) < vec4u(w.kEnd));
#else
  return x;
#endif
#endif
}

/// Tiles that run at the same time should share rows and columns, so GROUP rows of tiles are walked column by column.
fn regroup(tile: Tile) -> Tile {
  var grouped = tile;
  let number = tile.row * params.tilesN + tile.column;
  let size = GROUP * params.tilesN;
  let first = number / size * GROUP;
  let rows = min(params.tilesM - first, GROUP);
  grouped.row = first + number % size % rows;
  grouped.column = number % size / rows;
  return grouped;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let tile = regroup(locate(group));
  if (tile.outside) {
    return;
  }
  start_matrices(lane);
  let w = walkOf(tile);
  let down = subgroup / ACROSS * SUB_ROWS;
  let across = subgroup % ACROSS * SUB_COLUMNS;
  var sum: array<Result, RM * RN>;
  var left: array<Left, RM>;
  var nextA: array<vec4<T0>, A_FETCHES>;
  var nextB: array<vec4<T1>, B_FETCHES>;
  var aAt = 0u;

  // Round k loads the panel at k and multiplies the one before it, so that loads have the time of a panel to arrive.
  for (var k = tile.kBegin; k < w.kEnd + BK; k += BK) {
    if (k < w.kEnd) {
      #unroll F A_FETCHES
      nextA[F] = fetchA(thread + F * THREADS, tile, k, w);
      #end
      #unroll F B_FETCHES
      nextB[F] = fetchB(thread + F * THREADS, tile, k, w);
      #end
    }
    if (k > tile.kBegin) {
      let bAt = aAt + A_SIZE;
      for (var step = 0u; step < PANEL; step += MK) {
        #unroll I RM
        #if A_MODE == 1
        left[I] = load_left_turned(aAt + step * A_STRIDE + down + I * MM, A_STRIDE);
        #else
        left[I] = load_left(aAt + (down + I * MM) * A_STRIDE + step, A_STRIDE);
        #endif
        #end
        #unroll J RN
        {
          #if B_MODE == 0
          let right = load_right(bAt + step * B_STRIDE + across + J * MN, B_STRIDE);
          #else
          let right = load_right_turned(bAt + (across + J * MN) * B_STRIDE + step, B_STRIDE);
          #endif
          #unroll I RM
          sum[I * RN + J] = multiply(left[I], right, sum[I * RN + J]);
          #end
        }
        #end
      }
    }
    #if STAGES == 2
    aAt = PANELS - aAt;
    #else
    workgroupBarrier();
    #endif
    #unroll F A_FETCHES
    if (thread + F * THREADS < A_VECTORS) {
      let v = thread + F * THREADS;
      stage4(aAt + v / A_LINE * A_STRIDE + v % A_LINE * 4, vec4<Half>(nextA[F]));
    }
    #end
    #unroll F B_FETCHES
    if (thread + F * THREADS < B_VECTORS) {
      let v = thread + F * THREADS;
      stage4(aAt + A_SIZE + v / B_LINE * B_STRIDE + v % B_LINE * 4, vec4<Half>(nextB[F]));
    }
    #end
    workgroupBarrier();
  }

  let drain = subgroup * DRAIN_SIZE;
  #unroll I RM
  #unroll H DRAINS
  {
    #unroll J DRAIN_N
    store_result(sum[I * RN + H * DRAIN_N + J], drain + J * MN, DRAIN_STRIDE);
    #end
    workgroupBarrier();
    for (var v = lane; v < MM * DRAIN_LINE; v += SG) {
      let row = tile.row * BM + down + I * MM + v / DRAIN_LINE;
      let column = tile.column * BN + across + H * DRAIN_COLUMNS + v % DRAIN_LINE * 4;
      if (row < params.M) {
        let x = drained4(drain + v / DRAIN_LINE * DRAIN_STRIDE + v % DRAIN_LINE * 4);
        store(x, column, biasOf(column), tile.cBase + row * params.N);
      }
    }
    workgroupBarrier();
  }
  #end
  #end
}
