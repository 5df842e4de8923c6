// Functions of the elementwise language on integers: V is i32 or u32 or a vec4 of it. Division by 0 gives 0.
fn fmod(a: V, b: V) -> V { return a % b; }
fn remainder(a: V, b: V) -> V {
  let rest = a % b;
  return select(rest, rest + b, (rest != V(0)) & ((rest < V(0)) != (b < V(0))));
}
fn floor_divide(a: V, b: V) -> V {
  let down = (a % b != V(0)) & ((a < V(0)) != (b < V(0)));
  return select(select(a / b, a / b - V(1), down), V(0), b == V(0));
}

fn bit_and(a: V, b: V) -> V { return a & b; }
fn bit_or(a: V, b: V) -> V { return a | b; }
fn bit_xor(a: V, b: V) -> V { return a ^ b; }
fn bit_not(a: V) -> V { return ~a; }

// WGSL takes counts modulo 32. A negative count is a large one, too.
fn shift_left(a: V, count: V) -> V {
  return select(a << (VU(count) & VU(31u)), V(0), VU(count) > VU(31u));
}
fn shift_right(a: V, count: V) -> V {
  let most = a >> min(VU(count), VU(31u));
  return select(most, most >> VU(1u), VU(count) > VU(31u));
}
