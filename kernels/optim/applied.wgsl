// Recomputes step-dependent hyperparameters from the number of applied (not skipped) updates.
@group(0) @binding(1) var<storage, read_write> hyper: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<f32>;

/// 1 - beta^n by doubling; it keeps its digits where beta is near 1, which 1 - pow(beta, n) does not.
fn correction(one_minus_beta: f32, n: u32) -> f32 {
  var c = 0.0;
  for (var bit = 1u << firstLeadingBit(n); bit > 0u; bit >>= 1u) {
    c *= 2.0 - c;
    if ((n & bit) != 0u) {
      c += one_minus_beta * (1.0 - c);
    }
  }
  return c;
}

@compute @workgroup_size(1)
fn main() {
  let n = u32(state[2]) + 1u;
  hyper[STEP] = f32(n);
  hyper[BIAS1] = correction(hyper[ONE_MINUS_BETA1], n);
  hyper[ROOT_BIAS2] = sqrt(correction(hyper[ONE_MINUS_BETA2], n));
  hyper[FRESH] = select(hyper[LATER_FRESH], 1.0, n == 1u);
  hyper[LR] = hyper[BASE_LR] / (1.0 + f32(n - 1u) * hyper[LR_DECAY]);
}
