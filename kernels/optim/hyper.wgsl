// Shared by the kernels that update parameters, VEC elements at a time.
#import "optim/hyper_names.wgsl"

#if VEC == 4
alias P = vec4<f32>;
alias G = vec4<GRAD>;
#else
alias P = f32;
alias G = GRAD;
#endif
