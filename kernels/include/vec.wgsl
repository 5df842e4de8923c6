// The f32, bool and u32 of VEC elements.
#if VEC == 4
alias V = vec4<f32>;
alias VB = vec4<bool>;
alias VU = vec4<u32>;
#else
alias V = f32;
alias VB = bool;
alias VU = u32;
#endif
