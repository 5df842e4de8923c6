// [outer, n, inner] -> [outer, chunks, inner]: one thread per result (or four neighbouring ones), so that threads
// side by side read side by side. COMBINE is the operation on a and b; KEEP_NAN as in rows.wgsl.
struct Params {
  results: u32,
  n: u32,
  chunk: u32, // rows of one worker
  run: u32, // rows that are combined by themselves first, with RUNS: a long sum keeps more digits
  chunks: u32, // workers of one column
  inner: u32, // in units of IN, which holds one or four elements
  identity: S,
  scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<IN>;
@group(0) @binding(2) var<storage, read_write> out: array<OUT>;

#if KEEP_NAN
#import "include/special.wgsl"
#endif
fn combine(a: V, b: V) -> V { return COMBINE; }

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let result = id.x + id.y * groups.x * u32(WG);
  if (result >= params.results) { return; }
  let column = result % params.inner;
  let block = result / params.inner;
  let start = (block % params.chunks) * params.chunk;
  let end = min(start + params.chunk, params.n);
  let base = (block / params.chunks) * params.n * params.inner + column;
  var total = V(params.identity);
#if KEEP_NAN
  var check = V(0);
#endif
  var k = start;
#if RUNS
  while (k < end) {
    let stop = min(k + params.run, end);
#else
  {
    let stop = end;
#endif
    var part = V(params.identity);
    for (; k < stop; k++) {
      let value = V(x[base + k * params.inner]);
      part = combine(part, value);
#if KEEP_NAN
      check += value;
#endif
    }
    total = combine(total, part);
  }
#if KEEP_NAN
  if (any(is_nan(check))) {
    for (var k = start; k < end; k++) {
      let value = V(x[base + k * params.inner]);
      total = select(total, quiet_nan(value), is_nan(value));
    }
  }
#endif
#if FLOAT
  out[result] = OUT(total * params.scale);
#else
  out[result] = OUT(total);
#endif
}
