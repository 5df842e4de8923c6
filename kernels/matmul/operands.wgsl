// What every matmul kernel shares: the operands, which tile a workgroup computes, and how elements are read.
// A is M by K, B is K by N; either may be stored with any strides, and both are read as they are.
// Its elements are TB; with B_NF4 they are f32 once read, and packed in memory.
// A_MODE: 0 vec4 along k, 1 vec4 along m, 2 one element at a time. B_MODE: 0 vec4 along n, 1 vec4 along k, 2 likewise.
struct Params {
  M: u32,
  N: u32,
  K: u32,
  tilesM: u32,
  tilesN: u32,
  gridX: u32,
  batches: u32,
  batchAxes: u32,
  splits: u32,
  kPerSplit: u32,
  run: u32,    // RUNS: steps along K that are summed by themselves, so that a long sum keeps more digits
  origin: u32, // 0; an array that is indexed from this parameter stays out of registers
  aOffset: u32,
  aRow: u32,
  aCol: u32,
  bOffset: u32,
  bRow: u32,
  bCol: u32,
  biasOffset: u32,
  biasStride: u32,
  residualOffset: u32,
  scale: f32,
  batchShape: array<vec4<u32>, QUADS>,
  aBatch: array<vec4<u32>, QUADS>,
  bBatch: array<vec4<u32>, QUADS>,
}

@group(0) @binding(0) var<uniform> params: Params;
#if A_MODE == 2
@group(0) @binding(1) var<storage, read> a: array<T0>;
#else
@group(0) @binding(1) var<storage, read> a: array<vec4<T0>>;
#endif
#if B_NF4
@group(0) @binding(2) var<storage, read> b: array<u32>;
#import "quantized_matmul/nf4.wgsl"
#else
#if B_MODE == 2
@group(0) @binding(2) var<storage, read> b: array<TB>;
#else
@group(0) @binding(2) var<storage, read> b: array<vec4<TB>>;
#endif
#endif

struct Tile {
  row: u32,
  column: u32,
  aBase: u32,
  bBase: u32,
  cBase: u32,
  kBegin: u32,
  kEnd: u32,
  outside: bool,
}

/// The tile of a workgroup: columns fastest, then rows, batches and parts of K.
fn locate(group: vec3u) -> Tile {
  var tile: Tile;
  var rest = group.y * params.gridX + group.x;
  tile.column = rest % params.tilesN;
  rest /= params.tilesN;
  tile.row = rest % params.tilesM;
  rest /= params.tilesM;
  tile.outside = rest >= params.batches * params.splits;
  tile.cBase = rest * params.M * params.N;
  var batch = rest % params.batches;
  tile.kBegin = rest / params.batches * params.kPerSplit;
  tile.kEnd = min(params.K, tile.kBegin + params.kPerSplit);
  tile.aBase = params.aOffset;
  tile.bBase = params.bOffset;
  for (var i = params.batchAxes; i > 0; i--) {
    let axis = i - 1;
    let at = batch % params.batchShape[axis / 4][axis % 4];
    batch /= params.batchShape[axis / 4][axis % 4];
    tile.aBase += at * params.aBatch[axis / 4][axis % 4];
    tile.bBase += at * params.bBatch[axis / 4][axis % 4];
  }
  return tile;
}

/// Strides and bounds that the inner loop uses, copied: loading from a uniform is not free on a processor.
struct Walk {
  aStep: u32,
  bStep: u32,
  kEnd: u32,
  kLast: u32,
#if B_NF4
  packing: Nf4,
#endif
}

fn walkOf(tile: Tile) -> Walk {
#if B_NF4
  return Walk(params.aCol, params.bRow, tile.kEnd, tile.kEnd - 1, nf4Of(params.N * params.K));
#else
  return Walk(params.aCol, params.bRow, tile.kEnd, tile.kEnd - 1);
#endif
}

/// A k that may be read: the last step reads past the end of K and drops what it read.
fn readable(k: u32, w: Walk) -> u32 {
#if EDGE_K
  return min(k, w.kLast);
#else
  return k;
#endif
}

/// Four values along k, with zeros from the end of K on. Memory there may hold NaN, so it is replaced, not multiplied by zero.
fn keepBelow(value: vec4f, k: u32, w: Walk) -> vec4f {
#if EDGE_K
  return select(vec4f(), value, vec4u(k, k + 1, k + 2, k + 3) < vec4u(w.kEnd));
#else
  return value;
#endif
}

/// The value, or zero from the end of K on.
fn keepIf(value: vec4f, k: u32, w: Walk) -> vec4f {
#if EDGE_K
  return select(vec4f(), value, k < w.kEnd);
#else
  return value;
#endif
}

/// Four elements of A as they are stored: along k from k where A_MODE is 0 or 2, along m at k where it is 1.
fn rawA(at: u32, k: u32, w: Walk) -> vec4<T0> {
#if A_MODE == 0
  return a[(at + k) / 4];
#else
#if A_MODE == 1
  return a[(at + readable(k, w) * w.aStep) / 4];
#else
  return vec4<T0>(
    a[at + readable(k, w) * w.aStep],
    a[at + readable(k + 1, w) * w.aStep],
    a[at + readable(k + 2, w) * w.aStep],
    a[at + readable(k + 3, w) * w.aStep],
  );
#endif
#endif
}

/// Four elements of B as they are stored: along n at k where B_MODE is 0, along k from k where it is 1 or 2.
fn rawB(at: u32, k: u32, w: Walk) -> vec4<TB> {
#if B_NF4
#if B_MODE == 0
  return fourWeightsAt(at + readable(k, w) * w.bStep, w.packing);
#else
#if B_MODE == 1
  return fourWeightsAt(at + readable(k, w), w.packing);
#else
  return vec4f(
    weightAt(at + readable(k, w) * w.bStep, w.packing),
    weightAt(at + readable(k + 1, w) * w.bStep, w.packing),
    weightAt(at + readable(k + 2, w) * w.bStep, w.packing),
    weightAt(at + readable(k + 3, w) * w.bStep, w.packing),
  );
#endif
#endif
#else
#if B_MODE == 0
  return b[(at + readable(k, w) * w.bStep) / 4];
#else
#if B_MODE == 1
  return b[(at + k) / 4];
#else
  return vec4<TB>(
    b[at + readable(k, w) * w.bStep],
    b[at + readable(k + 1, w) * w.bStep],
    b[at + readable(k + 2, w) * w.bStep],
    b[at + readable(k + 3, w) * w.bStep],
  );
#endif
#endif
#endif
}

fn readA(at: u32, k: u32, w: Walk) -> vec4f {
  return vec4f(rawA(at, k, w));
}

fn readB(at: u32, k: u32, w: Walk) -> vec4f {
  return vec4f(rawB(at, k, w));
}

#if B_MODE == 2
fn elementOfB(at: u32, w: Walk) -> f32 {
#if B_NF4
  return weightAt(at, w.packing);
#else
  return f32(b[at]);
#endif
}
#endif
