/** Words of a Philox counter or of what it gives. */
export type Words4 = readonly [number, number, number, number];

/** Upper half of the 64-bit product of two unsigned 32-bit numbers. */
function highProduct(a: number, b: number): number {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const low = al * bl;
  const left = ah * bl;
  const right = al * bh;
  const carry = Math.floor(low / 65536) + (left % 65536) + (right % 65536);
  return ah * bh + Math.floor(left / 65536) + Math.floor(right / 65536) + Math.floor(carry / 65536);
}

/**
 * Philox4x32-10 (Salmon et al. 2011): four random 32-bit words that depend on key and counter alone. The same
 * function in WGSL is kernels/include/philox.wgsl, so host and device draw the same numbers.
 */
export function philox4x32(key: readonly [number, number], counter: Words4): Uint32Array<ArrayBuffer> {
  let [a, b, c, d] = counter;
  let [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const nextA = highProduct(0xcd9e8d57, c >>> 0) ^ b ^ k;
    const nextC = highProduct(0xd2511f53, a >>> 0) ^ d ^ l;
    b = Math.imul(0xcd9e8d57, c);
    d = Math.imul(0xd2511f53, a);
    a = nextA;
    c = nextC;
    k = (k + 0x9e3779b9) | 0;
    l = (l + 0xbb67ae85) | 0;
  }
  return Uint32Array.of(a, b, c, d);
}

/** A number in [0, 1) with 24 random bits: exact in f32, on the host as on the device. */
export function toUnit(word: number): number {
  return (word >>> 8) * 2 ** -24;
}

/** The two words of a key from a seed: any whole number below 2^53, or a bigint, whose lower 64 bits count. */
export function seedWords(seed: number | bigint): [number, number] {
  const bits = BigInt.asUintN(64, BigInt(seed));
  return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
}

/** A random 64-bit key. */
export function freshSeed(): [number, number] {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return [low, high];
}
