// A worker computes TM rows of eight columns.
//   ALONG_K   The worker is a subgroup whose lanes share K, so that neighbours read neighbouring addresses of a weight that
//             is stored along K: what a GPU wants.
//   else      It is a thread that walks K alone: no sum crosses lanes. Where the workgroup is one subgroup (HANDED), lanes
//             load different rows of x and hand them round; on a processor a load costs as much as several multiply-adds.
// Whatever the body and TM, the order of a sum depends on K alone, so that a row has the same bits beside any others.
// IN_OUT: weights are [K, N] in memory, else [N, K].
#import "fused_linear/layout.wgsl"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
  let unit = locate(group.x + group.y * groups.x, thread / (THREADS / UNITS));
  if (unit.row >= params.rows) { return; }
  // The rows of x that this thread loads, and their statistics.
  var x_at: array<u32, LOADS>;
  var of_row: array<vec3f, LOADS>;
  for (var r = 0u; r < TM; r++) {
    let at = row_start(unit.row + r);
    #if NORM
    let found = statistics(at, thread);
    #else
    let found = vec3f();
    #endif
    #unroll Q LOADS
    #if HANDED
    let mine$Q = (Q * SG + thread) % TM == r;
    #else
    let mine$Q = Q == r;
    #endif
    x_at[Q] = select(x_at[Q], at, mine$Q);
    of_row[Q] = select(of_row[Q], found, mine$Q);
    #end
  }
  var a: array<vec4f, TM>;
  var b: array<vec4f, TM>;
  var x4: array<vec4f, LOADS>;
  let end = params.cells;
  #if IN_OUT
  let width = params.stride;
  let a_at = min(unit.a / 4u, width - 1u);
  let b_at = min(unit.b / 4u, width - 1u);
  #else
  let last = params.stride - 1u;
  #unroll C 4
  let a_at$C = min(unit.a + C, last) * end;
  let b_at$C = min(unit.b + C, last) * end;
  #end
  #endif
  #unroll P PARTS
  if (unit.part == P) {
    #if ALONG_K
    for (var k = thread % SG; k < end; k += SG) {
    #else
    for (var k = 0u; k < end; k++) {
    #endif
      #if IN_OUT
      #unroll U 4
      let p$U = vec4f(w$P[(k * 4u + U) * width + a_at]);
      let q$U = vec4f(second$P[(k * 4u + U) * width + b_at]);
      #end
      #else
      #unroll C 4
      let along_a$C = vec4f(w$P[a_at$C + k]);
      let along_b$C = vec4f(second$P[b_at$C + k]);
      #end
      #unroll U 4
      let p$U = vec4f(along_a0[U], along_a1[U], along_a2[U], along_a3[U]);
      let q$U = vec4f(along_b0[U], along_b1[U], along_b2[U], along_b3[U]);
      #end
      #endif
      let of_columns = affine(k);
      #unroll Q LOADS
      x4[Q] = normal(vec4f(x[x_at[Q] + k]), of_row[Q], of_columns);
      #end
      #unroll I TM
      {
        #if HANDED
        let v = subgroupBroadcast(x4[I / SG], I % SG);
        #else
        let v = x4[I];
        #endif
        a[I] = fma(vec4f(v.w), p3, fma(vec4f(v.z), p2, fma(vec4f(v.y), p1, fma(vec4f(v.x), p0, a[I]))));
        b[I] = fma(vec4f(v.w), q3, fma(vec4f(v.z), q2, fma(vec4f(v.y), q1, fma(vec4f(v.x), q0, b[I]))));
      }
      #end
    }
  }
  #end
  #if ALONG_K
  #unroll I TM
  a[I] = subgroupAdd(a[I]);
  b[I] = subgroupAdd(b[I]);
  #end
  #endif
  // Row by row from the top, the others moving up: compilers take twice as long if the epilogue is repeated for each.
  for (var r = 0u; r < min(TM, params.rows - unit.row); r++) {
    #if ALONG_K
    let mine = thread % SG == r % SG;
    #else
    let mine = true;
    #endif
    if (unit.inside && mine) { finish(unit.row + r, unit, a[0], b[0]); }
    #unroll I BELOW
    a[I] = a[I + 1];
    b[I] = b[I + 1];
    #end
  }
}
