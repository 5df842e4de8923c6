// squares.wgsl on COUNT tensors in one dispatch: workgroups are dealt to the tensors one after the other, tensor I has
// those below ends[I] and the cells from firsts[I] on. Sums have the order, and so the bits, of squares.wgsl.
#import "include/row.wgsl"
struct Params {
  cols: array<vec4<u32>, 3>,
  ends: array<vec4<u32>, 3>,
  firsts: array<vec4<u32>, 3>,
}
@group(0) @binding(0) var<uniform> params: Params;
#unroll I COUNT
@group(0) @binding(1$I) var<storage, read> grad$I: array<GRAD>;
#end
@group(0) @binding(20) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let number = group.x + group.y * groups.x;
  var which = 0u;
  var start = 0u;
  while (which < COUNT && number >= params.ends[which / 4u][which % 4u]) {
    start = params.ends[which / 4u][which % 4u];
    which++;
  }
  let cols = params.cols[which / 4u][which % 4u];
  let step = (params.ends[which / 4u][which % 4u] - start) * LANES;
  var sum = V(0.0);
#unroll I COUNT
  if (which == I) {
    for (var i = (number - start) * LANES + lane; i < cols;) {
      let stop = min(i + 256u * step, cols);
      var part = V(0.0);
      for (; i < stop; i += step) {
        let g = V(grad$I[i]);
        part += g * g;
      }
      sum += part;
    }
  }
#end
  let all = rowSum(total(sum), lane);
  if (which < COUNT && lane == 0u) {
    sums[params.firsts[which / 4u][which % 4u] + number - start] = all;
  }
}
