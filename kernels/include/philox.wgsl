// Philox4x32-10 (Salmon et al. 2011): the twin of core/random.ts.
fn highProduct(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let left = ah * bl;
  let right = al * bh;
  let carry = ((al * bl) >> 16u) + (left & 0xffffu) + (right & 0xffffu);
  return ah * bh + (left >> 16u) + (right >> 16u) + (carry >> 16u);
}

fn philox(seed: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
  var c = counter;
  var k = seed;
  for (var round = 0u; round < 10u; round++) {
    c = vec4<u32>(
      highProduct(0xcd9e8d57u, c.z) ^ c.y ^ k.x,
      0xcd9e8d57u * c.z,
      highProduct(0xd2511f53u, c.x) ^ c.w ^ k.y,
      0xd2511f53u * c.x,
    );
    k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

/// Numbers in [0, 1) with 24 random bits.
fn toUnit(words: vec4<u32>) -> vec4<f32> {
  return vec4<f32>(words >> vec4<u32>(8u)) * 5.9604644775390625e-8;
}
