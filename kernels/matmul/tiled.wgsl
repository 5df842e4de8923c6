// The kernel for GPUs: a workgroup computes BM by BN elements of C, a thread 4 * RM by 4 * RN of them, from panels of
// BK columns of A and BK rows of B in workgroup memory. While a panel is multiplied, the next is already on its way
// into registers. Both panels are stored as vec4 across the tile (A along m, B along n), so a step along k reads
// RM + RN vectors for 16 * RM * RN multiply-adds. Panels travel in blocks of four by four, which are turned in
// registers where memory runs along k; after Nath, Tomov and Dongarra, "An Improved MAGMA GEMM for Fermi" (2010).
#import "matmul/operands.wgsl"
#import "matmul/epilogue.wgsl"

const M4 = BM / 4;
const N4 = BN / 4;
const K4 = BK / 4;
const A_BLOCKS = M4 * K4;
const BLOCKS = A_BLOCKS + N4 * K4;
const ROW_THREADS = M4 / RM;
const COLUMN_THREADS = N4 / RN;
const THREADS = ROW_THREADS * COLUMN_THREADS;

var<workgroup> aPanel: array<vec4f, BK * M4>;
var<workgroup> bPanel: array<vec4f, BK * N4>;

/// A block of the panel of A at k: four vectors along m, one for each k.
fn blockOfA(block: u32, tile: Tile, k: u32, w: Walk) -> mat4x4f {
#if A_MODE == 1
  let at = tile.aBase + min(tile.row * BM + block % M4 * 4, (params.M - 1) / 4 * 4);
  let k0 = k + block / M4 * 4;
  return mat4x4f(
    keepIf(readA(at, k0, w), k0, w),
    keepIf(readA(at, k0 + 1, w), k0 + 1, w),
    keepIf(readA(at, k0 + 2, w), k0 + 2, w),
    keepIf(readA(at, k0 + 3, w), k0 + 3, w),
  );
#else
  let rows = min(vec4u(tile.row * BM + block / K4 * 4) + vec4u(0, 1, 2, 3), vec4u(params.M - 1));
  let at = tile.aBase + rows * params.aRow;
  let k0 = k + block % K4 * 4;
  return transpose(mat4x4f(
    keepBelow(readA(at.x, k0, w), k0, w),
    keepBelow(readA(at.y, k0, w), k0, w),
    keepBelow(readA(at.z, k0, w), k0, w),
    keepBelow(readA(at.w, k0, w), k0, w),
  ));
#endif
}

/// A block of the panel of B at k: four vectors along n, one for each k.
fn blockOfB(block: u32, tile: Tile, k: u32, w: Walk) -> mat4x4f {
#if B_MODE == 0
  let at = tile.bBase + min(tile.column * BN + block % N4 * 4, (params.N - 1) / 4 * 4);
  let k0 = k + block / N4 * 4;
  return mat4x4f(
    keepIf(readB(at, k0, w), k0, w),
    keepIf(readB(at, k0 + 1, w), k0 + 1, w),
    keepIf(readB(at, k0 + 2, w), k0 + 2, w),
    keepIf(readB(at, k0 + 3, w), k0 + 3, w),
  );
#else
  let columns = min(vec4u(tile.column * BN + block / K4 * 4) + vec4u(0, 1, 2, 3), vec4u(params.N - 1));
  let at = tile.bBase + columns * params.bCol;
  let k0 = k + block % K4 * 4;
  return transpose(mat4x4f(
    keepBelow(readB(at.x, k0, w), k0, w),
    keepBelow(readB(at.y, k0, w), k0, w),
    keepBelow(readB(at.z, k0, w), k0, w),
    keepBelow(readB(at.w, k0, w), k0, w),
  ));
#endif
}

/// The blocks of B's panel are numbered after those of A's. Threads beyond the last block read it again and drop it.
fn fetch(number: u32, tile: Tile, k: u32, w: Walk) -> mat4x4f {
  let block = min(number, BLOCKS - 1);
  if (block < A_BLOCKS) {
    return blockOfA(block, tile, k, w);
  }
  return blockOfB(block - A_BLOCKS, tile, k, w);
}

fn keep(block: u32, values: mat4x4f) {
  if (block < A_BLOCKS) {
#if A_MODE == 1
    let at = block / M4 * 4 * M4 + block % M4;
#else
    let at = block % K4 * 4 * M4 + block / K4;
#endif
    aPanel[at] = values[0];
    aPanel[at + M4] = values[1];
    aPanel[at + 2 * M4] = values[2];
    aPanel[at + 3 * M4] = values[3];
  } else if (block < BLOCKS) {
#if B_MODE == 0
    let at = (block - A_BLOCKS) / N4 * 4 * N4 + (block - A_BLOCKS) % N4;
#else
    let at = (block - A_BLOCKS) % K4 * 4 * N4 + (block - A_BLOCKS) / K4;
#endif
    bPanel[at] = values[0];
    bPanel[at + N4] = values[1];
    bPanel[at + 2 * N4] = values[2];
    bPanel[at + 3 * N4] = values[3];
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let tile = locate(group);
  if (tile.outside) {
    return;
  }
  let across = thread % COLUMN_THREADS;
  let down = thread / COLUMN_THREADS;
  var sum: array<vec4f, 4 * RM * RN>;
  var next: array<mat4x4f, FETCHES>;
  var b4: array<vec4f, RN>;
#if RUNS
  var total: array<vec4f, 4 * RM * RN>;
#endif
  let w = walkOf(tile);

  // Round k loads the panel at k and multiplies the one before it, so that loads have the time of a panel to arrive.
  for (var k = tile.kBegin; k < w.kEnd + BK; k += BK) {
    if (k < w.kEnd) {
      #unroll F FETCHES
      next[F] = fetch(thread + F * THREADS, tile, k, w);
      #end
    }
    if (k > tile.kBegin) {
      for (var step = 0u; step < PANEL; step++) {
        #unroll J RN
        b4[J] = bPanel[step * N4 + across + J * COLUMN_THREADS];
        #end
        #unroll I RM
        {
          let a4 = aPanel[step * M4 + down + I * ROW_THREADS];
          #unroll R 4
          #unroll J RN
          sum[(I * 4 + R) * RN + J] = fma(vec4f(a4[R]), b4[J], sum[(I * 4 + R) * RN + J]);
          #end
          #end
        }
        #end
      }
#if RUNS
      if ((k - tile.kBegin) % params.run == 0) {
        #unroll S SUMS
        total[params.origin + S] += sum[S];
        sum[S] = vec4f();
        #end
      }
#endif
    }
    workgroupBarrier();
    #unroll F FETCHES
    keep(thread + F * THREADS, next[F]);
    #end
    workgroupBarrier();
  }

#if RUNS
  #unroll S SUMS
  sum[S] += total[params.origin + S];
  #end
#endif

  #unroll J RN
  {
    let column = tile.column * BN + (across + J * COLUMN_THREADS) * 4;
    let biases = biasOf(column);
    #unroll I RM
    #unroll R 4
    {
      let row = tile.row * BM + (down + I * ROW_THREADS) * 4 + R;
      if (row < params.M) {
        store(sum[(I * 4 + R) * RN + J], column, biases, tile.cBase + row * params.N);
      }
    }
    #end
    #end
  }
  #end
}
