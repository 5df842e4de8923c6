// y = a b for integers, batch by batch, one thread per element. Products and sums wrap around at 2^32.
struct Params { size: u32, m: u32, n: u32, k: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<T0>; // [batch, m, k]
@group(0) @binding(2) var<storage, read> b: array<T1>; // [batch, k, n]
@group(0) @binding(3) var<storage, read_write> y: array<U0>; // [batch, m, n]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = at.x + at.y * groups.x * 64u;
  if (i >= params.size) {
    return;
  }
  let row = i / params.n;
  let left = row * params.k;
  let right = row / params.m * params.k * params.n + i % params.n;
  var sum = U0(0);
  for (var k = 0u; k < params.k; k++) {
    sum += a[left + k] * b[right + k * params.n];
  }
  y[i] = sum;
}
