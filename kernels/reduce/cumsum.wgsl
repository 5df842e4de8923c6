// Running sums along the middle axis of [outer, n, inner]; a thread takes a chunk of one column.
struct Params { results: u32, n: u32, inner: u32, chunk: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> out: array<U0>;
#if CHUNKED
@group(0) @binding(3) var<storage, read> totals: array<S>; // [outer, chunks, inner]
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.results) { return; }
  let column = i % params.inner;
  let chunk = i / params.inner % params.chunks;
  let outer = i / params.inner / params.chunks;
  var total = S(0);
#if CHUNKED
  for (var c = 0u; c < chunk; c++) {
    total += totals[(outer * params.chunks + c) * params.inner + column];
  }
#endif
  let end = min((chunk + 1u) * params.chunk, params.n);
  for (var k = chunk * params.chunk; k < end; k++) {
    let at = (outer * params.n + k) * params.inner + column;
    total += S(x[at]);
    out[at] = U0(total);
  }
}
