// Shared by kernels on one tensor. Values that change from step to step are read from `hyper` and `scale`: a compiled
// step freezes params.
#import "include/vec.wgsl"
struct Params { size: u32, factor: f32 } // size in units of V; factor depends on the shape alone
@group(0) @binding(0) var<uniform> params: Params;
