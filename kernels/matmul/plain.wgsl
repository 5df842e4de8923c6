// The readable kernel: one thread computes one element of C, whatever the strides.
#import "matmul/operands.wgsl"
#import "matmul/epilogue.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let tile = locate(group);
  let m = tile.row;
  let n = tile.column * 64 + thread;
  if (tile.outside || n >= params.N) {
    return;
  }
  let w = walkOf(tile);
  var sum = 0.0;
  for (var first = tile.kBegin; first < tile.kEnd;) {
#if RUNS
    let end = min(first + params.run, tile.kEnd);
#else
    let end = tile.kEnd;
#endif
    var part = 0.0;
    for (var k = first; k < end; k++) {
      let x = f32(a[tile.aBase + m * params.aRow + k * params.aCol]);
      let y = elementOfB(tile.bBase + k * params.bRow + n * params.bCol, w);
      part = fma(x, y, part);
    }
    sum += part;
    first = end;
  }
  storeOne(finish(vec4f(sum), biasOf(n)).x, tile.cBase + m * params.N + n);
}
