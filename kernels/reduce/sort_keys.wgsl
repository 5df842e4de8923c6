// Unsigned keys in the order of the values, NaN above all; equal keys go by index, so that sorting is stable.
fn key_of(i: u32) -> u32 {
#if FLOAT
  let bits = bitcast<u32>(f32(x[i]));
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  // Both zeros are one key.
  if (bits == 0x80000000u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
#endif
#if SIGNED
  return bitcast<u32>(x[i]) ^ 0x80000000u;
#endif
#if UNSIGNED
  return x[i];
#endif
}

fn before(a: u32, b: u32) -> bool { return BEFORE; }
