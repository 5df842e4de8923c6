// NaN and infinities, told by bits: a compiler may assume that neither occurs, and drop every other test.
// V is f32 or vec4<f32>, VB and VU are its bool and u32: one text for both.
fn size_bits(x: V) -> VU { return bitcast<VU>(x) & VU(0x7fffffffu); }
fn is_nan(x: V) -> VB { return size_bits(x) > VU(0x7f800000u); }
fn is_finite(x: V) -> VB { return size_bits(x) < VU(0x7f800000u); }
fn is_infinite(x: V) -> VB { return size_bits(x) == VU(0x7f800000u); }
fn quiet_nan(x: V) -> V { return bitcast<V>(VU(0x7fc00000u) | bitcast<VU>(x)); } // not a constant: WGSL refuses NaN

// Some adapters answer NaN, and the logarithm of what is not positive and finite, with numbers.
fn exp_kept(x: V) -> V { return select(exp(x), x, is_nan(x)); }
fn log_kept(x: V) -> V {
  let minus_infinity = bitcast<V>(VU(0xff800000u) | bitcast<VU>(x)); // where x is 0
  let value = select(select(log(x), x, !is_finite(x)), minus_infinity, x == V(0.0));
  return select(value, quiet_nan(x), is_nan(x) | (x < V(0.0)));
}

// NaN of either argument is kept, as in PyTorch; the builtins may drop it.
fn maximum(a: V, b: V) -> V { return select(max(a, b), a + b, is_nan(a) | is_nan(b)); }
fn minimum(a: V, b: V) -> V { return select(min(a, b), a + b, is_nan(a) | is_nan(b)); }
