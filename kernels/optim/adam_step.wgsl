// Adam's arithmetic (Kingma & Ba 2015), all in f32; DECOUPLED: AdamW (Loshchilov & Hutter 2019).
struct Moved { param: P, first: P, second: P }

fn adam(param: P, gradient: P, first: P, second: P) -> Moved {
  var g = gradient * scale[0];
  var p = param;
#if DECOUPLED
  p -= hyper[LR] * hyper[WEIGHT_DECAY] * p;
#else
  g += hyper[WEIGHT_DECAY] * p;
#endif
  let m = first + (g - first) * hyper[ONE_MINUS_BETA1];
  let v = second * hyper[BETA2] + hyper[ONE_MINUS_BETA2] * g * g;
  return Moved(p - hyper[LR] / hyper[BIAS1] * m / (sqrt(v) / hyper[ROOT_BIAS2] + hyper[EPS]), m, v);
}
