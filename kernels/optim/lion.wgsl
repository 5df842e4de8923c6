// Lion (Chen et al. 2023): the sign of an average of momentum and gradient, with decoupled weight decay. state0 is the
// momentum, which moves more slowly than that average.
#import "optim/update.wgsl"
#import "include/special.wgsl"

fn update(old: Slot, grad: V) -> Slot {
  let direction = old.state0 * hyper[BETA1] + grad * hyper[ONE_MINUS_BETA1];
  let moved = select(sign(direction), direction, is_nan(direction)); // WGSL leaves sign(NaN) open
  let p = old.param - hyper[LR] * hyper[WEIGHT_DECAY] * old.param;
  return Slot(p - hyper[LR] * moved, old.state0 * hyper[BETA2] + grad * hyper[ONE_MINUS_BETA2]);
}
