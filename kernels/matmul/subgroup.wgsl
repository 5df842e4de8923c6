// One subgroup computes TM rows by 4 * SG * TN columns of C with neither barrier nor workgroup memory: on an adapter
// that runs on the processor a barrier suspends every lane, and loading one value costs as much as several
// multiply-adds. A lane holds TN groups of four columns of every row. Lanes load different parts of A once and hand
// them round by subgroupBroadcast. Rows and columns outside C are read from the last ones inside, and not stored.
#import "matmul/operands.wgsl"
#import "matmul/epilogue.wgsl"

#if A_MODE == 1
// Along m, this many lanes hold one k of A.
const LANES_PER_K = TM / 4;
#endif

@compute @workgroup_size(SG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let tile = locate(group);
  if (tile.outside) {
    return;
  }
  let row = tile.row * TM;
  let column = (tile.column * SG * TN + lane) * 4;
  var sum: array<vec4f, TM * TN>;
  var a4: array<vec4f, AQ>;
  var b4: array<vec4f, 4 * TN>;
  var aAt: array<u32, AQ>;
#if A_MODE == 1
  var aK: array<u32, AQ>;
#endif
#if B_MODE == 0
  var bAt: array<u32, TN>;
#else
  var bAt: array<u32, 4 * TN>;
  var bColumn: array<vec4f, 4 * TN>;
#endif

  #unroll Q AQ
  #if A_MODE == 1
  aAt[Q] = tile.aBase + min(row + (Q * SG + lane) % LANES_PER_K * 4, (params.M - 1) / 4 * 4);
  aK[Q] = (Q * SG + lane) / LANES_PER_K % 4;
  #else
  aAt[Q] = tile.aBase + min(row + (Q * SG + lane) % TM, params.M - 1) * params.aRow;
  #endif
  #end
  #unroll J TN
  #if B_MODE == 0
  bAt[J] = tile.bBase + min(column + J * SG * 4, (params.N - 1) / 4 * 4);
  #else
  #unroll C 4
  bAt[J * 4 + C] = tile.bBase + min(column + J * SG * 4 + C, params.N - 1) * params.bCol;
  #end
  #endif
  #end

  let w = walkOf(tile);
#if RUNS
  var total: array<vec4f, TM * TN>;
  for (var first = tile.kBegin; first < w.kEnd; first += params.run) {
    let end = min(first + params.run, w.kEnd);
#else
  {
    let first = tile.kBegin;
    let end = w.kEnd;
#endif
    for (var k = first; k < end; k += 4) {
      #unroll Q AQ
      #if A_MODE == 1
      a4[Q] = keepIf(readA(aAt[Q], k + aK[Q], w), k + aK[Q], w);
      #else
      a4[Q] = keepBelow(readA(aAt[Q], k, w), k, w);
      #endif
      #end
      #if B_MODE != 0
      #unroll C B_COLUMNS
      bColumn[C] = keepBelow(readB(bAt[C], k, w), k, w);
      #end
      #endif
      #unroll U 4
      #unroll J TN
      #if B_MODE == 0
      b4[U * TN + J] = keepIf(readB(bAt[J], k + U, w), k + U, w);
      #else
      b4[U * TN + J] = vec4f(bColumn[J * 4][U], bColumn[J * 4 + 1][U], bColumn[J * 4 + 2][U], bColumn[J * 4 + 3][U]);
      #endif
      #end
      #end
      #unroll I TM
      {
      #if A_MODE == 1
        #unroll U 4
        let x$U = vec4f(subgroupBroadcast(a4[(U * LANES_PER_K + I / 4) / SG][I % 4], (U * LANES_PER_K + I / 4) % SG));
        #end
      #else
        #unroll U 4
        let x$U = vec4f(subgroupBroadcast(a4[I / SG][U], I % SG));
        #end
      #endif
        #unroll J TN
        sum[I * TN + J] =
          fma(x3, b4[3 * TN + J], fma(x2, b4[2 * TN + J], fma(x1, b4[TN + J], fma(x0, b4[J], sum[I * TN + J]))));
        #end
      }
      #end
    }
#if RUNS
    #unroll I TM
    #unroll J TN
    total[I * TN + J] += sum[I * TN + J];
    sum[I * TN + J] = vec4f();
    #end
    #end
#endif
  }
#if RUNS
  sum = total;
#endif

  var biases: array<vec4f, TN>;
  #unroll J TN
  biases[J] = biasOf(column + J * SG * 4);
  #end
  // Row by row from the top, the others moving up: compilers of software adapters spell out a store lane by lane,
  // and take twice as long if it is repeated for every row.
  for (var r = row; r < min(row + TM, params.M); r++) {
    #unroll J TN
    store(sum[J], column + J * SG * 4, biases[J], tile.cBase + r * params.N);
    #end
    #unroll I BELOW
    #unroll J TN
    sum[I * TN + J] = sum[(I + 1) * TN + J];
    #end
    #end
  }
}
