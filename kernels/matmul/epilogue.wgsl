// What happens to a sum before it is stored: y = activation(scale * sum + bias) + residual.
// A pass over a part of K stores its bare sums in f32 (PARTIAL where the result is not) and leaves the rest to combine.wgsl.
// C_VEC: columns are stored four at a time.
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<TBIAS>;
#endif
#if RESIDUAL
#if C_VEC
@group(0) @binding(4) var<storage, read> residual: array<vec4<TRESIDUAL>>;
#else
@group(0) @binding(4) var<storage, read> residual: array<TRESIDUAL>;
#endif
#endif
#if ACTIVATION
#import "elementwise/functions.wgsl"
#endif
#if PARTIAL
alias Out = f32;
#else
alias Out = U0;
#endif
#if C_VEC
@group(0) @binding(5) var<storage, read_write> c: array<vec4<Out>>;
#else
@group(0) @binding(5) var<storage, read_write> c: array<Out>;
#endif

/// The bias of four columns; columns outside C repeat the last.
fn biasOf(column: u32) -> vec4f {
#if BIAS
  let last = vec4u(params.N - 1);
  let at = params.biasOffset + min(vec4u(column, column + 1, column + 2, column + 3), last) * params.biasStride;
  return vec4f(f32(bias[at.x]), f32(bias[at.y]), f32(bias[at.z]), f32(bias[at.w]));
#else
  return vec4f();
#endif
}

/// ACTIVATION: 0 none, 1 GELU, 2 GELU by tanh, 3 SiLU.
fn activate(x: vec4f) -> vec4f {
#if ACTIVATION == 1
  return 0.5 * x * (1 + erf(x * 0.7071067811865476));
#else
#if ACTIVATION == 2
  return 0.5 * x * (1 + tanh_safe(0.7978845608028654 * (x + 0.044715 * x * x * x)));
#else
#if ACTIVATION == 3
  return x * sigmoid(x);
#else
  return x;
#endif
#endif
#endif
}

/// Four sums as they are stored, all but the residual.
fn finish(sum: vec4f, biases: vec4f) -> vec4f {
#if PARTIAL
  return sum;
#else
  return activate(params.scale * sum + biases);
#endif
}

/// Stores the sums of four columns of the row whose first element is at `rowAt`; columns outside C are dropped.
fn store(sum: vec4f, column: u32, biases: vec4f, rowAt: u32) {
  if (column >= params.N) {
    return;
  }
  let at = rowAt + column;
  let y = finish(sum, biases);
#if C_VEC
#if RESIDUAL
  c[at / 4] = vec4<Out>(y + vec4f(residual[(params.residualOffset + at) / 4]));
#else
  c[at / 4] = vec4<Out>(y);
#endif
#else
  let count = min(params.N - column, 4);
  for (var i = 0u; i < count; i++) {
    storeOne(y[i], at + i);
  }
#endif
}

#if !C_VEC
fn storeOne(y: f32, at: u32) {
#if RESIDUAL
  c[at] = Out(y + f32(residual[params.residualOffset + at]));
#else
  c[at] = Out(y);
#endif
}
#endif
