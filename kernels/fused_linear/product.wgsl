// A worker computes TM rows of eight columns. ALONG_K: the worker is a subgroup whose lanes share K, so that neighbours read
// neighbouring addresses of a weight that is stored along K (what a GPU wants). Else it is a thread that walks K alone: no
// lane waits for another and no sum crosses lanes, and the eight columns share each value of x (what a processor wants).
// Either way the order of a sum depends on K alone, so a row has the same bits beside any others and for any TM.
// IN_OUT: weights are [K, N] in memory, else [N, K].
#import "fused_linear/layout.wgsl"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
  let unit = locate(group.x + group.y * groups.x, thread / (THREADS / UNITS));
  if (unit.row >= params.rows) { return; }
  #unroll I TM
  let x$I = row_start(unit.row + I);
  #if NORM
  let s$I = statistics(x$I, thread);
  #else
  let s$I = vec3f();
  #endif
  var a$I = vec4f();
  var b$I = vec4f();
  #end
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
      #unroll I TM
      {
        let v = normal(vec4f(x[x$I + k]), k, s$I);
        a$I = fma(vec4f(v.w), p3, fma(vec4f(v.z), p2, fma(vec4f(v.y), p1, fma(vec4f(v.x), p0, a$I))));
        b$I = fma(vec4f(v.w), q3, fma(vec4f(v.z), q2, fma(vec4f(v.y), q1, fma(vec4f(v.x), q0, b$I))));
      }
      #end
    }
  }
  #end
  #if ALONG_K
  #unroll I TM
  a$I = subgroupAdd(a$I);
  b$I = subgroupAdd(b$I);
  #end
  let mine = thread % SG;
  #else
  let mine = 0u;
  #endif
  #unroll I TM
  if (unit.inside && mine == I % OWNERS && unit.row + I < params.rows) { finish(unit.row + I, unit, a$I, b$I); }
  #end
}
