// Per query row: its log-sum-exp, and delta = sum(grad * out), which is what softmax's derivative subtracts.
struct Params {
  grad: vec4<u32>,     // strides of batch, head, position, component
  out: vec4<u32>,
  lse: vec4<u32>,      // strides of batch, head, position
#if LSE_GRAD
  lse_grad: vec4<u32>,
#endif
  offsets: vec4<u32>,  // of grad, out, lse, grad of lse
  heads: u32,
  queries: u32,
  cells: u32,          // components of a row, or vectors of four
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<T0v>;
@group(0) @binding(2) var<storage, read> out: array<T4v>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
#if LSE_GRAD
@group(0) @binding(4) var<storage, read> lse_grad: array<f32>;
#endif
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.queries) { return; }
  let place = vec4<u32>(id.z, id.y, id.x, 0u);
  let at = place * params.grad;
  let bt = place * params.out;
  let a = params.offsets.x + at.x + at.y + at.z;
  let b = params.offsets.y + bt.x + bt.y + bt.z;
  var delta = 0.0;
#if VEC == 4
  for (var c = 0u; c < params.cells; c++) { delta += dot(vec4<f32>(grad[a / 4u + c]), vec4<f32>(out[b / 4u + c])); }
#else
  for (var c = 0u; c < params.cells; c++) { delta += f32(grad[a + c * params.grad.w]) * f32(out[b + c * params.out.w]); }
#endif
  let row = (id.z * params.heads + id.y) * params.queries + id.x;
#if LSE_GRAD
  // d(lse)/d(score) is the weight itself, so its cotangent joins here.
  delta -= lse_grad[params.offsets.w + dot(place, params.lse_grad)];
#endif
  stats[row] = vec2<f32>(lse[params.offsets.z + dot(place, params.lse)], delta);
}
