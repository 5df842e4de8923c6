// out[c] = x[(c - start) / step] where that is the index of an element of x, else value. Axes come innermost first.
struct Params {
  size: u32,
  rank: u32,
  value: S,
  shape: array<vec4<u32>, QUADS>,
  extents: array<vec4<u32>, QUADS>,
  starts: array<vec4<i32>, QUADS>,
  steps: array<vec4<i32>, QUADS>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<T0>;
@group(0) @binding(2) var<storage, read_write> out: array<U0>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.size) { return; }
  var rest = i;
  var source = 0;
  var stride = 1;
  var inside = true;
  for (var axis = 0u; axis < params.rank; axis++) {
    let extent = params.shape[axis / 4u][axis % 4u];
    let count = i32(params.extents[axis / 4u][axis % 4u]);
    let step = params.steps[axis / 4u][axis % 4u];
    let distance = i32(rest % extent) - params.starts[axis / 4u][axis % 4u];
    let index = distance / step;
    rest /= extent;
    inside = inside && index * step == distance && index >= 0 && index < count;
    source += index * stride;
    stride *= count;
  }
  var value = U0(params.value);
  if (inside) { value = x[source]; }
  out[i] = value;
}
