// Adam (Kingma & Ba 2015), all in f32; DECOUPLED: AdamW (Loshchilov & Hutter 2019). state0 is the mean of gradients,
// state1 that of their squares.
#import "optim/update.wgsl"

fn update(old: Slot, grad: V) -> Slot {
  var g = grad;
  var p = old.param;
#if DECOUPLED
  p -= hyper[LR] * hyper[WEIGHT_DECAY] * p;
#else
  g += hyper[WEIGHT_DECAY] * p;
#endif
  let m = old.state0 + (g - old.state0) * hyper[ONE_MINUS_BETA1];
  let v = old.state1 * hyper[BETA2] + hyper[ONE_MINUS_BETA2] * g * g;
  return Slot(p - hyper[LR] / hyper[BIAS1] * m / (sqrt(v) / hyper[ROOT_BIAS2] + hyper[EPS]), m, v);
}
