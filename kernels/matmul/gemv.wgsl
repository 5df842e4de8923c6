// Few rows times a matrix that is stored along k (a Linear's weight), on a GPU: memory is the limit, so a subgroup
// reads four rows of the weight, neighbouring lanes at neighbouring addresses, and adds up across its lanes.
#import "matmul/operands.wgsl"
#import "matmul/epilogue.wgsl"

@compute @workgroup_size(SG * 4)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let tile = locate(group);
  if (tile.outside) {
    return;
  }
  let lane = thread % SG;
  let column = (tile.column * 4 + thread / SG) * 4;
  var sum: array<vec4f, ROWS>;
  var aAt: array<u32, ROWS>;
  var bAt: array<u32, 4>;
  var b4: array<vec4f, 4>;
  #unroll I ROWS
  aAt[I] = tile.aBase + min(u32(I), params.M - 1) * params.aRow;
  #end
  #unroll C 4
  bAt[C] = tile.bBase + min(column + C, params.N - 1) * params.bCol;
  #end

  let w = walkOf(tile);
  for (var k = tile.kBegin + lane * 4; k < w.kEnd; k += SG * 4) {
    #unroll C 4
    b4[C] = keepBelow(readB(bAt[C], k, w), k, w);
    #end
    #unroll I ROWS
    {
      let x = keepBelow(readA(aAt[I], k, w), k, w);
      sum[I] += vec4f(dot(x, b4[0]), dot(x, b4[1]), dot(x, b4[2]), dot(x, b4[3]));
    }
    #end
  }

  let biases = biasOf(column);
  #unroll I ROWS
  sum[I] = subgroupAdd(sum[I]);
  #end
  #unroll I ROWS
  if (lane == 0 && I < params.M) {
    store(sum[I], column, biases, tile.cBase + I * params.N);
  }
  #end
}
