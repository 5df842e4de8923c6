// The parameters of a kernel that updates one tensor: its size in units of P, and what depends on its shape alone.
struct Params { size: u32, factor: f32 }
@group(0) @binding(0) var<uniform> params: Params;
