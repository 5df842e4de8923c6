// SGD with momentum: buffer = momentum * buffer + fresh * g, where the first step takes g itself.
#import "optim/update.wgsl"

fn update(old: Slot, grad: V) -> Slot {
  let g = grad + hyper[WEIGHT_DECAY] * old.param;
  let b = hyper[MOMENTUM] * old.state0 + hyper[FRESH] * g;
#if NESTEROV
  return Slot(old.param - hyper[LR] * (g + hyper[MOMENTUM] * b), b);
#else
  return Slot(old.param - hyper[LR] * b, b);
#endif
}
