// target = source, or target += source, of views: an element goes where the strides say. Axes come innermost first.
struct Params {
  size: u32,
  rank: u32,
  target_start: i32,
  source_start: i32,
  shape: array<vec4<u32>, QUADS>,
  target_strides: array<vec4<i32>, QUADS>,
  source_strides: array<vec4<i32>, QUADS>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> target_: array<T0>;
@group(0) @binding(2) var<storage, read> source: array<T1>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 256u;
  if (i >= params.size) { return; }
  var rest = i;
  var to = params.target_start;
  var from_ = params.source_start;
  for (var axis = 0u; axis < params.rank; axis++) {
    let extent = params.shape[axis / 4u][axis % 4u];
    let index = i32(rest % extent);
    rest /= extent;
    to += index * params.target_strides[axis / 4u][axis % 4u];
    from_ += index * params.source_strides[axis / 4u][axis % 4u];
  }
#if ADD
  target_[to] = T0(SUM(target_[to]) + SUM(source[from_]));
#else
  target_[to] = T0(source[from_]);
#endif
}
