// Functions of the elementwise language that WGSL lacks, or whose builtin fails on some adapter (overflow of tanh,
// cancellation near zero, sine of large arguments). V is f32 or vec4<f32>: one text for both; VB, VU likewise.

// By bits, because a compiler may assume that NaN does not occur.
fn is_nan(x: V) -> VB { return (bitcast<VU>(x) & VU(0x7fffffffu)) > VU(0x7f800000u); }
fn is_finite(x: V) -> VB { return (bitcast<VU>(x) & VU(0x7fffffffu)) < VU(0x7f800000u); }

// Some adapters answer NaN, and the logarithm of what is not positive and finite, with numbers.
fn quiet_nan(x: V) -> V { return bitcast<V>(VU(0x7fc00000u) | bitcast<VU>(x)); } // not a constant: WGSL refuses NaN
fn exp_kept(x: V) -> V { return select(exp(x), x, is_nan(x)); }
fn log_kept(x: V) -> V {
  let minus_infinity = bitcast<V>(VU(0xff800000u) | bitcast<VU>(x)); // where x is 0
  let value = select(select(log(x), x, !is_finite(x)), minus_infinity, x == V(0.0));
  return select(value, quiet_nan(x), is_nan(x) | (x < V(0.0)));
}

// NaN of either argument is kept, as in PyTorch; the builtins may drop it.
fn maximum(a: V, b: V) -> V { return select(max(a, b), a + b, is_nan(a) | is_nan(b)); }
fn minimum(a: V, b: V) -> V { return select(min(a, b), a + b, is_nan(a) | is_nan(b)); }
fn signum(x: V) -> V { return select(sign(x), x, is_nan(x)); }

// tanh = x - x^3/3 + 2x^5/15 - ... near zero, else (1 - e) / (1 + e) with e = exp(-2|x|) <= 1, which cannot overflow.
fn tanh_safe(x: V) -> V {
  let s = x * x;
  let e = exp(-2.0 * abs(x));
  let near = x * (1.0 + s * (-0.33333333 + s * (0.13333333 + s * (-0.05396825 + s * 0.02186949))));
  let far = sign(x) * (1.0 - e) / (1.0 + e);
  return select(far, near, s < V(0.09));
}

fn sigmoid(x: V) -> V {
  let e = exp(-abs(x));
  let small = e / (1.0 + e);
  return select(1.0 - small, small, x < V(0.0));
}

// 2 atanh(x / (2 + x)) where 1 + x would round the digits of x away.
fn log1p(x: V) -> V {
  let s = x / (2.0 + x);
  let q = s * s;
  let near = 2.0 * s * (1.0 + q * (0.33333333 + q * (0.2 + q * (0.14285714 + q * 0.11111111))));
  return select(log_kept(1.0 + x), near, abs(x) < V(0.4));
}

fn expm1(x: V) -> V {
  let tail = 0.16666667 + x * (0.041666667 + x * (0.0083333333 + x * (0.0013888889 + x * 0.0001984127)));
  let near = x * (1.0 + x * (0.5 + x * tail));
  return select(exp_kept(x) - 1.0, near, abs(x) < V(0.5));
}

fn softplus(x: V) -> V { return max(x, V(0.0)) + log1p(exp(-abs(x))) + select(V(0.0), x, is_nan(x)); }

// x = k pi/2 + r with |r| <= pi/4, then Taylor: the builtins are good to 11 bits only on some adapters. pi/2 is split
// in two so that little is lost for large x.
fn quarter_turns(x: V) -> V { return round(x * 0.63661977); }
fn sine_in_quadrant(x: V, k: V, shift: V) -> V {
  let r = fma(k, V(4.371139e-8), fma(k, V(-1.5707964), x));
  let q = k + shift - 4.0 * floor((k + shift) * 0.25);
  let s = r * r;
  let sine = r * (1.0 + s * (-0.16666667 + s * (0.008333333 - s * 0.0001984127)));
  let cosine = 1.0 + s * (-0.5 + s * (0.041666668 + s * (-0.0013888889 + s * 0.000024801588)));
  let value = select(sine, cosine, (q == V(1.0)) | (q == V(3.0)));
  return select(value, -value, q >= V(2.0));
}
fn sin_reduced(x: V) -> V { return sine_in_quadrant(x, quarter_turns(x), V(0.0)); }
fn cos_reduced(x: V) -> V { return sine_in_quadrant(x, quarter_turns(x), V(1.0)); }

// Maclaurin series within 1, beyond it Abramowitz & Stegun 7.1.26 (error below 1.5e-7).
fn erf(x: V) -> V {
  let a = abs(x);
  let s = x * x;
  let high = 0.0046296296 + s * (-0.00075757576 + s * (0.00010683761 + s * (-0.000013227513 + s * 0.0000014589169)));
  let near = 1.1283792 * x * (1.0 + s * (-0.33333333 + s * (0.1 + s * (-0.023809524 + s * high))));
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let far = sign(x) * (1.0 - poly * exp(-s));
  return select(far, near, a < V(1.0));
}

// x^e with the signs of negative bases and whole exponents that the builtin leaves open.
fn power(x: V, e: V) -> V {
  let size = select(pow(abs(x), e), 1.0 / abs(x), (x == V(0.0)) & (e < V(0.0)));
  let whole = floor(e) == e;
  let odd = abs(e - 2.0 * floor(e * 0.5)) == V(1.0);
  let undefined = (x < V(0.0)) & !whole & is_finite(x);
  let signed_size = select(size, -size, (x < V(0.0)) & odd);
  let open = select(signed_size, quiet_nan(x), undefined | is_nan(x) | is_nan(e));
  return select(open, V(1.0), e == V(0.0));
}
