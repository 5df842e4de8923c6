/**
 * A 32-bit hash of a list of numbers (each taken as a 64-bit integer's low and high words), with the finaliser of
 * MurmurHash3 (Appleby 2011). Counter-based: the same numbers always give the same bits, so there is no state to save.
 */
export function hash32(...numbers: number[]): number {
  let hash = 0x9e3779b9;
  for (const number of numbers) {
    hash = mix(hash ^ (number >>> 0)) + 0x9e3779b9;
    hash = mix(hash ^ (Math.floor(number / 2 ** 32) >>> 0)) + 0x85ebca6b;
  }
  return mix(hash) >>> 0;
}

function mix(hash: number): number {
  let h = hash | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** A permutation of 0..length-1 that depends on `key` alone (Fisher and Yates, as in Knuth vol. 2, 3.4.2 P). */
export function permutation(length: number, ...key: number[]): Uint32Array {
  const order = Uint32Array.from({ length }, (_, i) => i);
  const start = hash32(...key);
  const second = hash32(start, ...key);
  for (let i = length - 1; i > 0; i--) {
    // Two hashes give 53 bits, so that the choice is even for any length that fits in memory.
    const fraction = (hash32(start, i) * 2 ** 21 + (hash32(second, i) >>> 11)) / 2 ** 53;
    const j = Math.floor(fraction * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
