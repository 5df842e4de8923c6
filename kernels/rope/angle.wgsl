// cos and sin of position * frequency, right to about 1e-6 for positions below 2^24 and angles up to 1e5. A product of two f32
// is not exact, and WGSL promises sin and cos to 2^-11 only, and for small angles only; so both are computed here.

/// x minus a whole number of quarter turns, and that number; exact to f32 for |x| < 1e5. pi/2 in three parts whose
/// first has so few bits that its product with the count is exact (Cody & Waite 1980).
fn quarter_turns(x: vec4<f32>) -> array<vec4<f32>, 2> {
  let n = round(x * 0.636619772);
  return array(fma(-n, vec4<f32>(7.54978942e-8), fma(-n, vec4<f32>(4.83751297e-4), x - n * 1.5703125)), n);
}

/// (cos, sin) of position * frequency.
fn rotation(position: i32, frequency: vec4<f32>) -> array<vec4<f32>, 2> {
  // Halves of 12 bits: each product below is exact.
  let size = u32(abs(position));
  let near = f32(size & 0xfffu);
  let far = f32(size & 0xfffff000u);
  let high = bitcast<vec4<f32>>(bitcast<vec4<u32>>(frequency) & vec4<u32>(0xfffff000u));
  let low = frequency - high;
  let a = quarter_turns(far * high);
  let b = quarter_turns(near * high);
  let c = quarter_turns(a[0] + (b[0] + fma(vec4<f32>(far), low, near * low)));
  let r = c[0];
  let quarter = vec4<i32>(a[1]) + vec4<i32>(b[1]) + vec4<i32>(c[1]);
  // Taylor's series on [-pi/4, pi/4], the last coefficients economised as in Cephes.
  let z = r * r;
  let s = fma(r * z, fma(z, fma(z, vec4<f32>(-1.9515296e-4), vec4<f32>(8.3321609e-3)), vec4<f32>(-0.16666655)), r);
  let k = fma(z * z, fma(z, fma(z, vec4<f32>(2.4433157e-5), vec4<f32>(-1.3887316e-3)), vec4<f32>(4.1666646e-2)), fma(z, vec4<f32>(-0.5), vec4<f32>(1.0)));
  let odd = (quarter & vec4<i32>(1)) == vec4<i32>(1);
  let cosine = select(k, s, odd) * select(vec4<f32>(1.0), vec4<f32>(-1.0), ((quarter + 1) & vec4<i32>(2)) == vec4<i32>(2));
  let sine = select(s, k, odd) * select(vec4<f32>(1.0), vec4<f32>(-1.0), (quarter & vec4<i32>(2)) == vec4<i32>(2));
  return array(cosine, sine * select(1.0, -1.0, position < 0));
}
