// RMSprop (Hinton 2012): v = beta2 * v + (1 - beta2) * g^2, p -= lr * g / (sqrt(v) + eps).
// With factors 1 and 1 it is Adagrad (Duchi et al. 2011).
#import "optim/update.wgsl"

fn update(old: Slot, grad: V) -> Slot {
  let g = grad + hyper[WEIGHT_DECAY] * old.param;
  let v = hyper[BETA2] * old.state0 + hyper[ONE_MINUS_BETA2] * g * g;
  return Slot(old.param - hyper[LR] * g / (sqrt(v) + hyper[EPS]), v);
}
