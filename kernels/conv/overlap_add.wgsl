// out[.., p, ..] = sum over k of x[.., w, .., k] where w * step + k * dilation = p, in the order of k. x is any view of
// float values; axes are those of out, innermost first, and on the folded one x's stride moves from window to window.
struct Params {
  size: u32,
  rank: u32,
  folded: u32,
  windows: i32,
  taps: i32,
  step: i32,
  dilation: i32,
  start: i32,
  tap_stride: i32,
  shape: array<vec4<u32>, QUADS>,
  strides: array<vec4<i32>, QUADS>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> out: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
  var rest = i;
  var source = params.start;
  var place = 0;
  var window_stride = 0;
  for (var axis = 0u; axis < params.rank; axis++) {
    let extent = params.shape[axis / 4u][axis % 4u];
    let stride = params.strides[axis / 4u][axis % 4u];
    let coordinate = i32(rest % extent);
    rest /= extent;
    if (axis == params.folded) {
      place = coordinate;
      window_stride = stride;
    } else {
      source += coordinate * stride;
    }
  }
  var sum = 0.0;
  for (var tap = 0; tap < params.taps; tap++) {
    let distance = place - tap * params.dilation;
    let window = distance / params.step;
    if (distance >= 0 && window * params.step == distance && window < params.windows) {
      sum += f32(x[source + window * window_stride + tap * params.tap_stride]);
    }
  }
  out[i] = U0(sum);
}
