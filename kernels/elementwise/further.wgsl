// Functions that few formulas call, imported by those alone. The builtins for inverse and hyperbolic functions are
// good to 12 bits, overflow, or lose small arguments, depending on the adapter.

fn is_negative(x: V) -> VB { return bitcast<VU>(x) >= VU(0x80000000u); }
fn with_sign(size: V, x: V) -> V { return select(size, -size, is_negative(x)); }
fn two_to(k: VU) -> V { return bitcast<V>((k + VU(127u)) << VU(23u)); }

// The rest of long division, exact: each turn takes y times the largest power of two that fits.
fn fmod(x: V, y: V) -> V {
  let defined = is_finite(x) & (abs(y) > V(0.0)) & !is_nan(y);
  let divisor = select(V(1.0), abs(y), defined);
  var rest = select(V(0.0), abs(x), defined);
  for (var turn = 0; turn < 300; turn++) { // more than the exponents of f32 differ
    let more = rest >= divisor;
    if (!any(more)) { break; }
    let steps = select(VU(0u), (bitcast<VU>(rest) >> VU(23u)) - (bitcast<VU>(divisor) >> VU(23u)), more);
    let half = steps >> VU(1u);
    let multiple = divisor * two_to(half) * two_to(steps - half);
    rest = select(rest, rest - select(0.5 * multiple, multiple, multiple <= rest), more);
  }
  return select(quiet_nan(x), with_sign(rest, x), defined);
}
fn remainder(x: V, y: V) -> V {
  let rest = fmod(x, y);
  return select(rest, rest + y, (rest != V(0.0)) & ((rest < V(0.0)) != (y < V(0.0))));
}
fn floor_divide(x: V, y: V) -> V {
  let rest = fmod(x, y);
  let quotient = round((x - rest) / y);
  let down = (rest != V(0.0)) & ((rest < V(0.0)) != (y < V(0.0)));
  return select(select(quotient, quotient - 1.0, down), x / y, y == V(0.0));
}

// Inverse tangent within [0, 1], and the polynomial of asin below: Cephes, single precision.
fn atan_unit(t: V) -> V {
  let upper = t > V(0.41421357);
  let u = select(t, (t - 1.0) / (t + 1.0), upper);
  let s = u * u;
  let tail = -0.33332949 + s * (0.19977711 + s * (-0.13877686 + s * 0.080537444));
  return select(V(0.0), V(0.78539816), upper) + (u + u * s * tail);
}
fn arc_tangent(x: V) -> V {
  let size = abs(x);
  let beyond = size > V(1.0);
  let angle = atan_unit(select(size, 1.0 / size, beyond));
  return select(with_sign(select(angle, 1.5707964 - angle, beyond), x), x, is_nan(x));
}
fn angle_of(y: V, x: V) -> V {
  let large = max(abs(x), abs(y));
  let small = min(abs(x), abs(y));
  let ratio = select(select(small / large, V(0.0), large == V(0.0)), V(1.0), is_infinite(small));
  let within = atan_unit(ratio);
  let first = select(within, 1.5707964 - within, abs(y) > abs(x));
  let angle = with_sign(select(first, 3.1415927 - first, is_negative(x)), y);
  return select(angle, x + y, is_nan(x) | is_nan(y));
}

// asin of |x| up to 1/2, and half of acos |x| beyond it.
fn asin_part(size: V) -> V {
  let far = size > V(0.5);
  let s = select(size * size, 0.5 * (1.0 - size), far);
  let u = select(size, sqrt(max(s, V(0.0))), far);
  return u + u * s * (0.16666752 + s * (0.07495300 + s * (0.045470026 + s * (0.02418131 + s * 0.042163199))));
}
fn arc_sine(x: V) -> V {
  let part = asin_part(abs(x));
  let angle = with_sign(select(part, 1.5707964 - 2.0 * part, abs(x) > V(0.5)), x);
  return select(angle, quiet_nan(x), (abs(x) > V(1.0)) | is_nan(x));
}
fn arc_cosine(x: V) -> V {
  let part = asin_part(abs(x));
  let far = select(2.0 * part, 3.1415927 - 2.0 * part, is_negative(x));
  let angle = select(1.5707964 - with_sign(part, x), far, abs(x) > V(0.5));
  return select(angle, quiet_nan(x), (abs(x) > V(1.0)) | is_nan(x));
}

fn sinh_far(x: V) -> V {
  let s = x * x;
  let near = x * (1.0 + s * (0.16666667 + s * (0.0083333333 + s * (0.0001984127 + s * 0.0000027557319))));
  let root = exp_far(0.5 * abs(x)); // its square may overflow only where the result does
  return select(with_sign((0.5 * root) * root - 0.5 / root / root, x), near, abs(x) < V(1.0));
}
fn cosh_far(x: V) -> V {
  let root = exp_far(0.5 * abs(x));
  return (0.5 * root) * root + 0.5 / root / root;
}
fn asinh_near(x: V) -> V {
  let size = abs(x);
  let s = size * size;
  let near = log1p(size + s / (1.0 + sqrt(1.0 + s)));
  return select(with_sign(select(near, log_near(size) + 0.69314718, size > V(10000.0)), x), x, is_nan(x));
}
fn acosh_near(x: V) -> V {
  let above = x - 1.0;
  let near = log1p(above + sqrt(max(above * (2.0 + above), V(0.0))));
  let value = select(near, log_near(x) + 0.69314718, x > V(10000.0));
  return select(value, quiet_nan(x), (x < V(1.0)) | is_nan(x));
}
fn atanh_near(x: V) -> V {
  let size = abs(x);
  let value = with_sign(0.5 * log1p(2.0 * size / (1.0 - size)), x);
  return select(value, quiet_nan(x), (size > V(1.0)) | is_nan(x));
}

// The exponent, and the logarithm of what remains within sqrt(1/2) and sqrt(2).
fn log2_exact(x: V) -> V {
  let bits = bitcast<VU>(x);
  let m = bitcast<V>((bits & VU(0x7fffffu)) | VU(0x3f800000u));
  let upper = m > V(1.4142136);
  let exponent = bitcast<V>(VU(0x4b000000u) | (bits >> VU(23u))) - 8388735.0;
  let value = select(exponent, exponent + 1.0, upper) + 1.442695 * log_near(select(m, 0.5 * m, upper));
  return select(1.442695 * log_kept(x), value, is_finite(x) & (x >= V(1.1754944e-38)));
}
fn exp2_exact(x: V) -> V {
  let bounded = clamp(x, V(-160.0), V(130.0));
  let n = round(bounded);
  let half = floor(0.5 * n);
  return select(exp((bounded - n) * 0.69314718) * power_of_2(half) * power_of_2(n - half), x, is_nan(x));
}
