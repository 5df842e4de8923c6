// Functions of the elementwise language that WGSL lacks, or whose builtin fails on some adapter (overflow of tanh,
// cancellation near zero, sine of large arguments). V is f32 or vec4<f32>: one text for both; VB, VU likewise.

#import "include/special.wgsl"

// IEEE comparisons: `!=` holds where either is NaN, all others do not. Tint writes `!=` as an ordered comparison.
fn unordered(a: V, b: V) -> VB { return is_nan(a) | is_nan(b); }
fn equal(a: V, b: V) -> VB { return (a == b) & !unordered(a, b); }
fn differ(a: V, b: V) -> VB { return (a != b) | unordered(a, b); }
fn less(a: V, b: V) -> VB { return (a < b) & !unordered(a, b); }
fn less_equal(a: V, b: V) -> VB { return (a <= b) & !unordered(a, b); }
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

// e^(x - n ln 2) 2^n. The builtin multiplies x by log2(e) and rounds, which costs large x five bits.
fn exp_far(x: V) -> V {
  let bounded = clamp(x, V(-110.0), V(100.0));
  let n = round(bounded * 1.442695);
  let half = floor(0.5 * n);
  let rest = (bounded - n * 0.693359375) + n * 2.1219444e-4;
  return select(exp(rest) * power_of_2(half) * power_of_2(n - half), x, is_nan(x));
}
// By bits: Mesa would make one exponential of several. The sum holds k in its low bits.
fn power_of_2(k: V) -> V { return bitcast<V>((bitcast<VU>(k + 12582912.0) + VU(127u)) << VU(23u)); }

// log(1 + x) as 2 atanh(x / (2 + x)) for small x, whose digits 1 + x would round away.
fn log_beside_1(x: V) -> V {
  let s = x / (2.0 + x);
  let q = s * s;
  return 2.0 * s * (1.0 + q * (0.33333333 + q * (0.2 + q * (0.14285714 + q * 0.11111111))));
}
fn log1p(x: V) -> V { return select(log_kept(1.0 + x), log_beside_1(x), abs(x) < V(0.4)); }
fn log_near(x: V) -> V { return select(log_kept(x), log_beside_1(x - 1.0), abs(x - 1.0) < V(0.4)); }

fn expm1(x: V) -> V {
  let tail = 0.16666667 + x * (0.041666667 + x * (0.0083333333 + x * (0.0013888889 + x * 0.0001984127)));
  let near = x * (1.0 + x * (0.5 + x * tail));
  return select(exp_far(x) - 1.0, near, abs(x) < V(0.5));
}

fn softplus(x: V) -> V { return max(x, V(0.0)) + log1p(exp(-abs(x))) + select(V(0.0), x, is_nan(x)); }

// The position of the angle x on the circle, 2^32 to a full turn; |x| >= 1. x is a whole number m times a power of two, so
// only 64 bits of 2 / pi matter: those before give whole turns, those behind less than 2^-36 (Payne & Hanek 1983).
fn circle(x: V) -> VU {
  let bits = bitcast<VU>(x);
  let m = (bits & VU(0x7fffffu)) | VU(0x800000u);
  // Three words, of 32 zeros and the bits of 2 / pi behind the point, from the one in which those 64 bits begin.
  let first = ((bits >> VU(23u)) & VU(255u)) - VU(120u);
  var a = VU(0u);
  var b = VU(0xa2f9836eu);
  var c = VU(0x4e441529u);
  let one = first >= VU(32u);
  a = select(a, b, one);
  b = select(b, c, one);
  c = select(c, VU(0xfc2757d1u), one);
  let two = first >= VU(64u);
  a = select(a, b, two);
  b = select(b, c, two);
  c = select(c, VU(0xf534ddc0u), two);
  let three = first >= VU(96u);
  a = select(a, b, three);
  b = select(b, c, three);
  c = select(c, VU(0xdb629599u), three);
  let four = first >= VU(128u);
  a = select(a, b, four);
  b = select(b, c, four);
  c = select(c, VU(0x3c439041u), four);
  let left = first & VU(31u);
  let right = VU(31u) - left; // one less than wanted: a shift by 32 is none
  let high = (a << left) | ((b >> VU(1u)) >> right);
  let low = (b << left) | ((c >> VU(1u)) >> right);
  // m * low / 2^32, by the bits of floats: software adapters take long to convert integers.
  let part = bitcast<V>(VU(0x3f800000u) | (low >> VU(9u))) - 1.0;
  let carry = bitcast<VU>(bitcast<V>(VU(0x4a800000u) | (m & VU(0x7fffffu))) * part + 8388608.0) << VU(1u);
  let turn = m * high + (carry & VU(0xffffffu));
  return select(turn, VU(0u) - turn, bits >= VU(0x80000000u));
}

// sin(x + quarters pi/2). x = k pi/2 + r with |r| <= pi/4, then polynomials (Cephes): the builtins are good to 11 bits,
// and that for small x. Up to 8192 pi/2 in three parts, of which two have so few bits that k times them is exact and is
// taken from x without rounding (Cody & Waite 1980), with or without fused multiply-adds.
fn sine_of(x: V, quarters: f32) -> V {
  let k = round(x * 0.63661977);
  var r = ((x - k * 1.5703125) - k * 4.837513e-4) - k * 7.5497894e-8;
  var q = bitcast<VU>(k + (12582912.0 + quarters)); // its low bits
  let far = abs(x) > V(8192.0);
  if (any(far)) {
    let turn = circle(x);
    let shifted = turn + VU(0x20000000u); // by half a quarter
    let rest = bitcast<V>(VU(0x3f800000u) | ((shifted >> VU(7u)) & VU(0x7fffffu))) - 1.5;
    let tail = bitcast<V>(VU(0x3f800000u) | ((shifted & VU(127u)) << VU(16u))) - 1.0;
    r = select(r, (rest + tail * 1.1920929e-7) * 1.5707963, far);
    q = select(q, (shifted >> VU(30u)) + VU(u32(quarters)), far);
  }
  let s = r * r;
  let sine = r + r * s * (-0.16666655 + s * (0.008332161 - s * 0.00019515296));
  let cosine = 1.0 - 0.5 * s + s * s * (0.041666646 + s * (-0.0013887316 + s * 0.000024433157));
  let value = select(sine, cosine, (q & VU(1u)) == VU(1u));
  return select(select(value, -value, (q & VU(2u)) == VU(2u)), quiet_nan(x), !is_finite(x));
}
fn sin_reduced(x: V) -> V { return sine_of(x, 0.0); }
fn cos_reduced(x: V) -> V { return sine_of(x, 1.0); }

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
  // 1 to an infinite power is 1; the sign of -0 counts.
  let exact = select(size, V(1.0), (abs(x) == V(1.0)) & !is_nan(e));
  let signed_size = select(exact, -exact, (bitcast<VU>(x) >= VU(0x80000000u)) & odd);
  let open = select(signed_size, quiet_nan(x), undefined | is_nan(x) | is_nan(e));
  return select(open, V(1.0), (e == V(0.0)) | (x == V(1.0)));
}
